"""A small GPT trained under a fixed budget. Lower validation bits per byte (val_bpb) is better; the judge measures it.

Everything in this file may be changed. The knobs come first: `# search:` gives the values worth trying, `# require:`
what must hold between them. Runs on a CPU, on one GPU, or on several with torchrun.
"""

import math
import sys
from itertools import islice

import prepare
import torch
import torch.distributed as dist
import torch.nn.functional as F
from prepare import DEVICE, MAX_SEQ_LEN, RANK, WORLD_SIZE
from torch import nn

# ---- Knobs -----------------------------------------------------------------------------------------------------------

# Model
DEPTH = 4  # search: int 1..8  # blocks
DIM = 128  # search: choice 64, 96, 128, 160, 192, 256, 384  # width of the residual stream
HEADS = 4  # search: choice 1, 2, 4, 8  # query heads
KV_HEADS = 4  # search: choice 1, 2, 4, 8  # key and value heads; fewer than HEADS share them
MLP_RATIO = 4.0  # search: choice 1.0, 2.0, 3.0, 4.0, 6.0  # hidden width of the MLP / DIM
ACTIVATION = "gelu"  # search: choice gelu, relu2, silu, swiglu
NORM = "rms"  # search: choice rms, layer  # layer norm has a fused kernel on CPUs, rms norm on GPUs
QK_NORM = False  # search: choice False, True  # normalise queries and keys
WINDOW_PATTERN = "L"  # search: choice L, SL, SSL, S  # attention by block, repeated: Long, or Short (a quarter)
VALUE_EMBEDDINGS = False  # search: choice False, True  # a table of embeddings feeds the values of every other block
EARLIER_TOKENS = 0  # search: int 0..4  # the input has embeddings of so many tokens before it as well
TIE_EMBEDDINGS = False  # search: choice False, True  # the output layer is the input embedding
LOGIT_CAP = 0.0  # search: choice 0.0, 15.0, 30.0  # soft limit of the logits, cap * tanh(logits / cap); 0 for none
ROPE_BASE = 10000.0  # search: log 100..100000
INIT_STD = 0.02  # search: log 0.005..0.1
# require: DIM % HEADS == 0 and (DIM // HEADS) % 2 == 0
# require: HEADS % KV_HEADS == 0

# Optimisation
OPTIMIZER = "AdamW"  # search: choice AdamW, Muon  # Muon is for the blocks' matrices; AdamW keeps the rest
LEARNING_RATE = 1e-3  # search: log 0.0003..0.05
EMBEDDING_LR_SCALE = 1.0  # search: log 0.1..10  # x LEARNING_RATE, for embeddings and the output layer
BETA1 = 0.9  # search: linear 0.8..0.98
BETA2 = 0.95  # search: linear 0.9..0.999
WEIGHT_DECAY = 0.1  # search: linear 0..0.3  # of the blocks' matrices
GRAD_CLIP = 1.0  # search: choice 0.0, 0.5, 1.0, 2.0  # largest norm of the gradient; 0 for none
WARMUP = 0.1  # search: linear 0..0.3  # share of the budget in which the learning rate rises
COOLDOWN = 0.3  # search: linear 0..0.9  # share of the budget over which it falls at the end
FINAL_LR = 0.1  # search: linear 0..0.3  # x LEARNING_RATE, where the fall ends
# require: WARMUP + COOLDOWN <= 1

# Batch
SEQUENCE = 128  # search: choice 32, 64, 96, 128  # tokens of a training row, at most MAX_SEQ_LEN
TOTAL_BATCH = 1024  # search: choice 256, 512, 1024, 2048, 4096  # tokens of one optimizer step, all GPUs together
MICRO_BATCH = 2**16  # search: off  # most tokens of one forward pass: less needs less memory, the result is the same

# ---- Precision -------------------------------------------------------------------------------------------------------
# Weights are float32. Activations have the type below, by explicit casts: autocast would choose by operator.

DTYPE = torch.float32
if DEVICE.type == "cuda":  # below capability 8.0 bfloat16 is emulated, whatever is_bf16_supported() says
    DTYPE = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16

# ---- Model -----------------------------------------------------------------------------------------------------------


def norm(x):
    return F.rms_norm(x, (x.size(-1),)) if NORM == "rms" else F.layer_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """float32 weights, used in the type of the input."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    def __init__(self, index, vocab_size):
        super().__init__()
        self.head_dim = DIM // HEADS
        self.query = Linear(DIM, DIM, bias=False)
        self.key_value = Linear(DIM, 2 * KV_HEADS * self.head_dim, bias=False)
        self.output = Linear(DIM, DIM, bias=False)
        use_values = VALUE_EMBEDDINGS and index % 2 == 0
        self.values = nn.Embedding(vocab_size, KV_HEADS * self.head_dim) if use_values else None
        self.window = MAX_SEQ_LEN // (4 if WINDOW_PATTERN[index % len(WINDOW_PATTERN)] == "S" else 1)

    def forward(self, x, idx, cos, sin, distance):
        B, T, _ = x.shape
        query = self.query(x).view(B, T, HEADS, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        key, value = self.key_value(x).view(B, T, 2 * KV_HEADS, self.head_dim).transpose(1, 2).split(KV_HEADS, dim=1)
        if self.values is not None:
            extra = self.values(idx).to(x.dtype).view(B, T, KV_HEADS, self.head_dim)
            value = value + extra.transpose(1, 2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if QK_NORM:
            query, key = norm(query), norm(key)
        if KV_HEADS != HEADS:
            groups = (B, KV_HEADS, HEADS // KV_HEADS, T, self.head_dim)
            key = key.unsqueeze(2).expand(groups).reshape(query.shape)
            value = value.unsqueeze(2).expand(groups).reshape(query.shape)
        if self.window < T:
            mask = (distance >= 0) & (distance < self.window)
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(B, T, DIM))


def rotate(x, cos, sin):
    """Rotary positions: pairs (i, i + D/2) turn by an angle that grows with the position. x (B, H, T, D)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        # A gated MLP has three matrices: two thirds of the width make it the same size.
        self.hidden = int(MLP_RATIO * DIM * (2 / 3 if ACTIVATION == "swiglu" else 1)) // 8 * 8
        self.up = Linear(DIM, self.hidden * (2 if ACTIVATION == "swiglu" else 1), bias=False)
        self.down = Linear(self.hidden, DIM, bias=False)

    def forward(self, x):
        x = self.up(x)
        if ACTIVATION == "swiglu":
            gate, x = x.split(self.hidden, dim=-1)
            x = F.silu(gate) * x
        elif ACTIVATION == "relu2":
            x = F.relu(x)
            x = x * x
        else:
            x = F.gelu(x) if ACTIVATION == "gelu" else F.silu(x)
        return self.down(x)


class Block(nn.Module):
    def __init__(self, index, vocab_size):
        super().__init__()
        self.attention = Attention(index, vocab_size)
        self.mlp = MLP()

    def forward(self, x, *context):
        x = x + self.attention(norm(x), *context)
        return x + self.mlp(norm(x))


class CrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(logits)[target], logits (N, V) float32, target (N,) int64.

    Fewer passes over the logits than torch's own: with one small block on a CPU a step took 15-19 % less time.
    """

    @staticmethod
    def forward(ctx, logits, target):
        target = target.unsqueeze(1)
        probabilities = torch.softmax(logits, dim=-1)
        ctx.save_for_backward(probabilities, target)
        return -probabilities.gather(1, target).clamp_min(1e-37).log().mean()

    @staticmethod
    def backward(ctx, gradient):
        probabilities, target = ctx.saved_tensors  # used once: they become the gradient in place
        probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=probabilities.dtype))
        return probabilities.mul_(gradient / len(target)), None


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, DIM)
        self.earlier_embeddings = nn.ModuleList([nn.Embedding(vocab_size, DIM) for _ in range(EARLIER_TOKENS)])
        self.blocks = nn.ModuleList([Block(index, vocab_size) for index in range(DEPTH)])
        self.head = Linear(DIM, vocab_size, bias=False)
        for weight in self.parameters():
            nn.init.normal_(weight, std=INIT_STD)
        for block in self.blocks:  # each block adds to the stream: the sum should not grow with the depth
            nn.init.normal_(block.attention.output.weight, std=INIT_STD / math.sqrt(2 * DEPTH))
            nn.init.normal_(block.mlp.down.weight, std=INIT_STD / math.sqrt(2 * DEPTH))
        if TIE_EMBEDDINGS:
            self.head.weight = self.embedding.weight
        half = DIM // HEADS // 2
        position = torch.arange(MAX_SEQ_LEN)
        angle = position[:, None] * ROPE_BASE ** (-torch.arange(half) / half)  # (T, D/2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.register_buffer("distance", position[:, None] - position[None, :])  # (T, T) query minus key position

    def forward(self, idx, targets=None):
        """idx (B, T) int64. Without targets: logits (B, T, V) float32. With targets (B, T): the mean loss in nats."""
        T = idx.size(1)
        x = self.embedding(idx)
        for back, table in enumerate(self.earlier_embeddings, start=1):
            x = x + F.pad(table(idx[:, :-back]), (0, 0, back, 0))  # the first positions have nothing before them
        x = norm(x.to(DTYPE))
        context = idx, self.cos[:T].to(DTYPE), self.sin[:T].to(DTYPE), self.distance[:T, :T]
        for block in self.blocks:
            x = block(x, *context)
        logits = self.head(norm(x)).float()
        if LOGIT_CAP:
            logits = LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)
        if targets is None:
            return logits
        return CrossEntropy.apply(logits.flatten(0, 1), targets.flatten())


# ---- Optimizer -------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, so that every direction of a matrix learns at the same rate.

    torch.optim.Muon works in bfloat16, one matrix at a time, which is slow on CPUs; this one takes all matrices of one
    shape together, in float32. Updates have the size of AdamW's, so the two share a learning rate.
    """

    def __init__(self, params, lr, momentum, weight_decay):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ARG002 - an optimizer's signature
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                grads = torch.stack([p.grad for p in params])
                velocity = self.state[params[0]].setdefault("velocity", torch.zeros_like(grads))
                velocity.lerp_(grads, 1 - group["momentum"])
                update = orthogonal(grads.lerp(velocity, group["momentum"])) * (0.2 * math.sqrt(max(shape)))
                for p, change in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])


def orthogonal(matrices, steps=5):
    """Nearest (nearly) orthogonal matrices, (N, rows, columns) float32, by Newton-Schulz iteration: no SVD."""
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):  # a quintic whose slope at 0 is steep: singular values end between 0.7 and 1.2
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def make_optimizers(model):
    """One or two optimizers; every group carries `peak_lr`, which the schedule multiplies."""
    tables, matrices = [], []
    for name, p in model.named_parameters():
        (tables if any(word in name for word in ("embedding", "head", "values")) else matrices).append(p)
    tables = {"params": tables, "lr": LEARNING_RATE * EMBEDDING_LR_SCALE, "weight_decay": 0.0}
    matrices = {"params": matrices, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
    adamw = {"lr": LEARNING_RATE, "betas": (BETA1, BETA2), "fused": True}
    if OPTIMIZER == "Muon":
        muon = Muon([matrices], lr=LEARNING_RATE, momentum=0.95, weight_decay=WEIGHT_DECAY)
        optimizers = [torch.optim.AdamW([tables], **adamw), muon]
    else:
        optimizers = [torch.optim.AdamW([tables, matrices], **adamw)]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak_lr"] = group["lr"]
    return optimizers


def schedule(done):
    """Multiplier of the learning rate when `done` (0..1) of the budget is spent: up, level, down."""
    up = (done + 0.01) / (WARMUP + 0.01)
    down = FINAL_LR + (1 - FINAL_LR) * (1 - done) / COOLDOWN if COOLDOWN > 0 else 1.0
    return min(up, 1.0, down)


# ---- Training --------------------------------------------------------------------------------------------------------


def largest(value):
    """The largest of the ranks' values, so that all of them use the same learning rate and stop at the same step."""
    if WORLD_SIZE == 1:
        return value
    dist.all_reduce(shared := torch.tensor(value, device=DEVICE), op=dist.ReduceOp.MAX)
    return shared.item()


def train_step(model, optimizers, scaler, micro_batches, multiplier):
    """One update from the mean gradient of micro_batches on all ranks; gives the mean loss of this rank, a tensor."""
    total = torch.zeros((), device=DEVICE)
    for x, y, _ in micro_batches:
        loss = model(x, y) / len(micro_batches)
        scaler.scale(loss).backward()
        total += loss.detach()
    parameters = list(model.parameters())
    if WORLD_SIZE > 1:
        for p in parameters:
            dist.all_reduce(p.grad)
            p.grad /= WORLD_SIZE
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    if GRAD_CLIP:
        nn.utils.clip_grad_norm_(parameters, GRAD_CLIP)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * multiplier
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total


def main():
    torch.manual_seed(prepare.SEED)
    if WORLD_SIZE > 1:
        dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")
    sequence = min(SEQUENCE, MAX_SEQ_LEN)
    share = TOTAL_BATCH // WORLD_SIZE
    rows = max(1, min(MICRO_BATCH, share) // sequence)
    accumulation = max(1, round(share / rows / sequence))

    tokenizer = prepare.Tokenizer.from_directory()
    model = GPT(tokenizer.get_vocab_size()).to(DEVICE)
    optimizers = make_optimizers(model)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=torch.float16 == DTYPE)
    count, shape = sum(p.numel() for p in model.parameters()), f"{WORLD_SIZE} x {accumulation} x {rows} x {sequence}"
    print(f"{count} parameters, {DTYPE}, {shape} tokens a step")
    prepare.trace(model)  # start-up is free: only the weights are left to be sent when the budget is spent

    batches = iter(prepare.make_dataloader(tokenizer, rows, sequence, "train"))
    step = 0
    while True:
        micro_batches = list(islice(batches, accumulation))
        if largest(float(len(micro_batches) < accumulation)):
            break
        multiplier = schedule(largest(prepare.progress()))
        loss = train_step(model, optimizers, scaler, micro_batches, multiplier)
        if step % 10 == 0:  # reading the loss waits for the GPU
            value = loss.item()
            if not math.isfinite(value):
                sys.exit(f"The loss is {value} at step {step}: training diverged; try a lower LEARNING_RATE.")
            prepare.log(step, value)
        step += 1

    development_bpb = prepare.evaluate_bpb(model, tokenizer, rows)  # hands the model over to be judged
    if RANK == 0:
        print(f"steps: {step}\ndevelopment_bpb: {development_bpb:.4f}")
    if WORLD_SIZE > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
