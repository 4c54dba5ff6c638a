"""What a knob probably does, told by the words in its name: which change to try first, and the sentence for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of knob. `rank` orders first tries: what moves a short training run most comes first, and depth before
    all, because a shallower model makes every later trial cheaper to judge."""

    axis: str
    rank: int
    first: int
    """Direction of the first try: +1 up, -1 down."""
    factor: float
    """Ratio of a full step for knobs on a log scale."""
    why_up: str
    why_down: str


_LEARNING_RATE = Role(
    "learning rate",
    1,
    +1,
    4.0,
    "Larger steps get further in a short budget.",
    "Smaller steps are steadier; the rate may be past its optimum.",
)
_DEPTH = Role(
    "depth",
    0,
    -1,
    4.0,
    "A deeper model can learn more if the budget has room for it.",
    "A shallower model makes more steps in the same budget.",
)
_OPTIMIZER = Role(
    "optimizer",
    7,
    +1,
    2.0,
    "Another update rule may learn faster per step.",
    "Another update rule may learn faster per step.",
)
_BATCH = Role(
    "batch",
    10,
    -1,
    2.0,
    "A larger batch gives less noisy steps and better use of the hardware.",
    "A smaller batch makes more steps from the same number of tokens.",
)
_WIDTH = Role(
    "width",
    6,
    -1,
    2.0,
    "A wider model learns more from each token.",
    "A narrower model sees more tokens in the same budget.",
)
_SEQUENCE = Role(
    "sequence",
    2,
    -1,
    2.0,
    "Longer rows give more context.",
    "Shorter rows cost less and make a batch more varied.",
)
_SHORT_RANGE = Role(
    "short-range context",
    3,
    +1,
    2.0,
    "Embeddings of the tokens before give a shallow model their context for almost no time.",
    "Attention may find the tokens before by itself.",
)
_SCHEDULE_TAIL = Role(
    "schedule",
    8,
    +1,
    2.0,
    "A longer descent of the rate settles the weights.",
    "A shorter descent keeps the rate high for longer.",
)
_SCHEDULE_HEAD = Role(
    "schedule",
    9,
    -1,
    2.0,
    "A longer warm-up is safer with large steps.",
    "A short budget has little time to spend on warming up.",
)
_PART_RATE = Role(
    "learning rate of a part",
    11,
    +1,
    3.0,
    "This part of the model may want larger steps.",
    "This part of the model may want smaller steps.",
)
_SCALE = Role(
    "initialisation",
    13,
    +1,
    2.0,
    "A larger start gives larger first gradients.",
    "A smaller start is steadier.",
)
_DECAY = Role(
    "regularisation",
    14,
    -1,
    2.0,
    "Stronger regularisation may keep the weights in a good range.",
    "A short run does not overfit: regularisation only costs.",
)
_HEADS = Role(
    "attention",
    12,
    -1,
    2.0,
    "More heads can look at more places at once.",
    "Fewer heads are cheaper and each is wider.",
)
_ARCHITECTURE = Role(
    "architecture",
    12,
    +1,
    2.0,
    "Another form of this part may learn faster in the same budget.",
    "Another form of this part may learn faster in the same budget.",
)
_OTHER = Role(
    "setting",
    15,
    +1,
    2.0,
    "A higher value has not been tried from here.",
    "A lower value has not been tried from here.",
)

_WHOLE_RATE = frozenset(
    {"LR", "LEARNING", "RATE", "PEAK", "MAX", "BASE", "MAIN", "MODEL", "MATRIX", "MUON", "ADAM", "ADAMW"}
)
_BY_WORD: tuple[tuple[Role, frozenset[str]], ...] = tuple(
    (role, frozenset(words.split()))
    for role, words in [
        (_OPTIMIZER, "OPTIMIZER OPTIMISER OPTIM OPT"),
        (_SCHEDULE_TAIL, "COOLDOWN WARMDOWN DECAYDOWN ANNEAL"),
        (_SCHEDULE_HEAD, "WARMUP WARM FINAL MIN END"),
        (_DECAY, "WEIGHT WD DROPOUT DROP CLIP REGULARIZATION"),
        (_SHORT_RANGE, "EARLIER PREVIOUS NGRAM BIGRAM TRIGRAM"),
        (_BATCH, "BATCH"),
        (_SEQUENCE, "SEQUENCE SEQ SEQLEN CONTEXT BLOCK CTX"),
        (_DEPTH, "DEPTH LAYER LAYERS NLAYER NLAYERS BLOCKS"),
        (_HEADS, "HEAD HEADS KV GQA WINDOW"),
        (_SCALE, "INIT STD"),
        (_ARCHITECTURE, "RATIO MLP ACTIVATION NORM TIE TIED EMBEDDINGS ROPE CAP QK ATTENTION"),
        (_WIDTH, "DIM WIDTH EMBD EMBED HIDDEN ASPECT CHANNELS D"),
    ]
)


def role_of(name: str) -> Role:
    """The role of a knob by its name, whatever its case; names that say nothing get a general one."""
    words = name.upper().split("_")
    is_rate = "LR" in words or {"LEARNING", "RATE"} <= set(words)
    if is_rate and set(words) <= _WHOLE_RATE:
        return _LEARNING_RATE
    for role, marks in _BY_WORD:
        # "FINAL_LR" and "MIN_LR" belong to the schedule; every other part's rate is a rate.
        if not marks.isdisjoint(words) and not (is_rate and role is not _SCHEDULE_HEAD):
            return role
    return _PART_RATE if is_rate else _OTHER
