from __future__ import annotations

import pytest
from campaign import Campaign, Verdicts


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """What every disturbed run has to end with."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed"))
    assert campaign.finish() == 0, campaign.log()
    return campaign.verdicts()
