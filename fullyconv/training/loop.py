"""The training loop: steps, averages, validation and checkpoints of one network."""

import copy
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from fullyconv import losses
from fullyconv.errors import FullyconvError
from fullyconv.kernels import upsample, upsample_cross_entropy
from fullyconv.models import FCN
from fullyconv.sampling import seed_of
from fullyconv.training import checkpoints
from fullyconv.training.loading import Feed
from fullyconv.training.recipes import Loss, Recipe, Reduction, keep_statistics, learning_rate_factor

Batch = tuple[Tensor, Tensor]

Tell = Callable[[str, Mapping[str, Any]], None]

VALIDATION_SHARE = 0.05  # of the time that has passed, on a budget
FIRST_VALIDATION = 0.2  # of a budget: before, nobody knows what a validation costs
LARGEST_RESERVE = 0.25  # of a budget, however slow validation is

HARDEST = 0.2  # of an image's pixels count in the loss of that name; the share that Detectron2's DeepLab takes


class InterruptedTrainingError(Exception):
    """Training was asked to stop, and has saved where it was."""


@dataclass
class Pace:
    """How far a run is: by steps, or by the clock where a budget was given.

    Args:
        steps: In all; None with a budget.
        budget_seconds: In all, the time of earlier sessions included; None without a budget.
        begun: When this session began, on the monotonic clock.
        spent_seconds: Before this session.
        reserve_seconds: Of the budget, kept for what comes after the last step.
    """

    steps: int | None
    budget_seconds: float | None
    begun: float
    spent_seconds: float = 0.0
    reserve_seconds: float = 0.0

    def elapsed(self) -> float:
        """Seconds that the run has taken, over all its sessions."""
        return self.spent_seconds + time.monotonic() - self.begun

    def keep_back(self, seconds: float) -> None:
        """Reserves time of the budget for what comes after the last step, though never most of it."""
        if self.budget_seconds is not None:
            self.reserve_seconds = min(seconds, LARGEST_RESERVE * self.budget_seconds)

    def progress(self, step: int, elapsed: float) -> float:
        """The share of the run that is over, in [0, 1].

        A budget that is over before the first step begins with it: else a stage whose time those before have taken
        could never be finished, however often it is resumed.
        """
        if self.budget_seconds is not None:
            share = elapsed / max(self.budget_seconds - self.reserve_seconds, 1e-9)
            return 0.0 if share >= 1 and step == 0 else min(1.0, share)
        assert self.steps is not None
        return min(1.0, step / self.steps)


class Objective(nn.Module):
    """The loss of a batch as a module, so that data-parallel training can wrap it.

    Args:
        model: Scored on its grid; the upsampling is part of the loss.
        loss: Cross-entropy gives the sum over pixels, each weighted by its class; the others give means over the batch.
        weight: Of each class `(K,)`, or None.
        ignore_index: Mask value of pixels that do not count.
        heads: How many of the K classes each head has, in order; one head if left out. Heads share all but their score
            channels, and each has a loss of its own, against a mask of its own.
        reduction: With `image`, cross-entropy divides the sum of each image by its own `amount`, as Caffe does with
            `normalize: true`; else the sum is left to be divided by whoever knows the whole step.

    Source: for heads, Long, Shelhamer and Darrell 2015, section 5, on SIFT Flow.
    """

    def __init__(
        self,
        model: FCN,
        loss: Loss,
        weight: Tensor | None,
        ignore_index: int,
        *,
        heads: Sequence[int] = (),
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.heads = list(heads) or [model.num_classes]
        self.by_image = loss == "cross_entropy" and reduction == "image"

    def forward(
        self, image: Float[Tensor, "n c height width"], target: Int[Tensor, "n heads height width"]
    ) -> Float[Tensor, " heads"]:
        """The loss of each head."""
        scores = self.model.scores(image)
        if not self.by_image:
            return self._losses(scores, target)
        pairs = list(zip(torch.split(scores, 1), torch.split(target, 1), strict=True))
        return torch.stack([self._losses(score, mask) / _or_one(self.amount(mask)) for score, mask in pairs]).sum(0)

    def _losses(self, scores: Tensor, target: Tensor) -> Tensor:
        blocks = torch.split(scores, self.heads, dim=1)
        parts = zip(blocks, target.unbind(1), self._weights(), strict=True)
        return torch.stack([self._loss_of(block, mask, weight) for block, mask, weight in parts])

    def _weights(self) -> Sequence[Tensor | None]:
        """The class weights of each head."""
        weight = self._buffers["weight"]
        return [None] * len(self.heads) if weight is None else torch.split(weight, self.heads)

    def _loss_of(self, scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        if self.loss in ("cross_entropy", "hardest"):
            hardest = self.loss == "hardest"
            return upsample_cross_entropy(
                scores,
                target,
                weight=weight,
                ignore_index=self.ignore_index,
                reduction="mean" if hardest else "sum",
                hardest=HARDEST if hardest else 1.0,
                grid=self.model.grid,
            )
        logits = upsample(scores, (target.shape[1], target.shape[2]), grid=self.model.grid)
        function = losses.dice if self.loss == "dice" else losses.focal
        return function(logits, target, weight=weight, ignore_index=self.ignore_index)

    def amount(self, target: Int[Tensor, "n heads height width"]) -> Float[Tensor, " heads"]:
        """What the summed loss of each head is to be divided by: the class weights of its pixels, added up."""
        valid = [mask[mask != self.ignore_index] for mask in target.unbind(1)]
        return torch.stack(
            [
                target.new_tensor(classes.numel(), dtype=torch.float32) if weight is None else weight[classes].sum()
                for classes, weight in zip(valid, self._weights(), strict=True)
            ]
        )


class Average:
    """An exponential moving average of a model's weights and buffers; young averages forget faster.

    Args:
        model: What is averaged; copied.
        decay: What remains after a step, once many steps are done.
    """

    def __init__(self, model: FCN, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: FCN, step: int) -> None:
        """Moves the average towards `model` after its step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


class StopRequest:
    """Notices Ctrl-C and SIGTERM while it is entered; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._notice)
            except ValueError:  # not the main thread: the caller's own handlers stay
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@dataclass
class State:
    """What has happened so far, beside the weights."""

    step: int = 0
    images: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    validations: int = 0
    validation_seconds: float = 0.0
    validated_step: int = -1


class Loop:
    """Trains one network; everything that it needs is handed in.

    Args:
        model: On its device; changed by training.
        objective: The loss over that model.
        recipe: Batch size, optimiser, schedule.
        optimizer: Over the model's parameters, in groups that carry their `rate`.
        accelerator: Devices, precision, processes.
        pace: When the run ends.
        validations: How often the run is validated, evenly spread.
        checkpoint_seconds: Time between checkpoints.
        run: The run folder.
        validate: Gives the scores of a model; called on every process alike.
        keep: Saves a model under a name in the run folder; called on the first process only.
    """

    def __init__(
        self,
        model: FCN,
        objective: Objective,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        pace: Pace,
        *,
        seed: int,
        validations: int,
        checkpoint_seconds: float,
        run: Path,
        validate: Callable[[FCN], Mapping[str, float]],
        keep: Callable[[FCN, str, Mapping[str, float]], None],
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.accelerator = accelerator
        self.pace = pace
        self.seed = seed
        self.validations = validations
        self.checkpoint_seconds = checkpoint_seconds
        self.run = run
        self.validate = validate
        self.keep = keep
        self.state = State()
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.objective = objective
        self.wrapped, self.optimizer = accelerator.prepare(objective, optimizer)

    def restore(self) -> bool:
        """Goes back to the newest checkpoint of the run, if there is one."""
        found = checkpoints.read(self.run / "checkpoints")
        if found is None:
            return False
        tensors, values = found
        self.model.load_state_dict(_under("model.", tensors))
        if self.average:
            self.average.model.load_state_dict(_under("average.", tensors))
        checkpoints.restore_optimizer(self.optimizer, tensors)
        self.state = State(**{key: values[key] for key in vars(self.state)})
        self.pace.spent_seconds = values["elapsed"]
        self.pace.reserve_seconds = values["reserve"]
        return True

    def checkpoint(self) -> Path | None:
        """Writes a checkpoint; on the first process only."""
        if not self.accelerator.is_main_process:
            return None
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        tensors |= checkpoints.optimizer_tensors(self.optimizer)
        values = {**vars(self.state), "elapsed": self.pace.elapsed(), "reserve": self.pace.reserve_seconds}
        return checkpoints.write(self.run / "checkpoints", self.state.step, tensors, values)

    def fit(self, feed: Feed, tell: Tell, stop: StopRequest) -> State:
        """Trains to the end of the pace.

        Args:
            feed: Batches of this process.
            tell: Told of each step and validation: kind and values.
            stop: Asked at every step, and after the last validation.

        Raises:
            InterruptedTrainingError: After Ctrl-C or SIGTERM, with a checkpoint written.
            FullyconvError: SEG-T008 if the loss or a score is not a number.
        """
        last_checkpoint = time.monotonic()
        while True:
            about = self.pace.progress(self.state.step, self.pace.elapsed())
            parts = [_to(part, self.accelerator.device) for part in feed.step(self.state.step, about)]
            amounts, elapsed, stopping = self._agree(parts, stop.asked)
            progress = self.pace.progress(self.state.step, elapsed)
            if stopping:
                self.checkpoint()
                self.accelerator.wait_for_everyone()  # or a launcher would end the one that writes
                raise InterruptedTrainingError
            if progress >= 1:
                break
            loss = self._step(parts, amounts, progress)
            self._report_step(tell, loss, progress, elapsed)
            due = int(self.pace.progress(self.state.step, elapsed) * self.validations)
            if self.state.validations < due < self.validations and self._affordable(elapsed):
                self._validate(tell)
                self.state.validations = due
                last_checkpoint = -math.inf
            if time.monotonic() - last_checkpoint > self.checkpoint_seconds:
                self.checkpoint()
                last_checkpoint = time.monotonic()
        if self.state.validated_step != self.state.step:
            self._validate(tell)
        self.state.validations = self.validations
        self.checkpoint()
        if self._total(stop.asked):
            raise InterruptedTrainingError
        return self.state

    @property
    def shown(self) -> FCN:
        """The model that is validated and saved: the average where there is one."""
        return self.average.model if self.average else self.model

    def _agree(self, parts: Sequence[Batch], stop: bool) -> tuple[list[float], float, bool]:
        """What all processes must see alike: the step's amount of loss for each head, the first one's clock, and any
        wish to stop."""
        amounts: list[float] = torch.stack([self.objective.amount(target) for _, target in parts]).sum(0).tolist()
        elapsed = self.pace.elapsed() if self.accelerator.is_main_process else 0.0
        if self.accelerator.num_processes == 1:
            return amounts, elapsed, stop
        shared = torch.tensor([*amounts, elapsed, float(stop)], dtype=torch.float64, device=self.accelerator.device)
        *amounts, elapsed, wishes = self.accelerator.reduce(shared, reduction="sum").tolist()
        return amounts, elapsed, wishes > 0

    def _step(self, parts: Sequence[Batch], amounts: Sequence[float], progress: float) -> float:
        torch.manual_seed(seed_of(self.seed, "dropout", self.state.step, self.accelerator.process_index))
        factor = learning_rate_factor(self.recipe, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor * group["rate"]
        self.wrapped.train()
        if self.recipe.tune == "score":
            keep_statistics(self.model)
        # Data-parallel training averages gradients over processes, while the loss here is a share of one sum.
        scales = torch.tensor(self._scales(parts, amounts), device=self.accelerator.device)
        total = torch.zeros((), device=self.accelerator.device)
        for number, (image, target) in enumerate(parts):
            with self._silent() if number < len(parts) - 1 else nullcontext():
                loss = (self.wrapped(image, target) * scales).sum()
                self.accelerator.backward(loss)
            total += loss.detach()
        mean = float(self.accelerator.reduce(total, reduction="mean"))
        if not math.isfinite(mean):
            raise self._diverged(f"the loss became {mean}")
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.model, self.state.step)
        self.state.step += 1
        self.state.images += self.recipe.batch
        return mean

    def _scales(self, parts: Sequence[Batch], amounts: Sequence[float]) -> list[float]:
        """What the loss of each head is multiplied by."""
        processes: int = self.accelerator.num_processes
        if self.objective.loss != "cross_entropy":
            return [1 / len(parts)] * len(amounts)
        if self.recipe.reduction == "mean":
            return [processes / (amount or 1.0) for amount in amounts]
        return [processes / self.recipe.batch] * len(amounts)

    def _silent(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.wrapped)
        return context

    def _report_step(self, tell: Tell, loss: float, progress: float, elapsed: float) -> None:
        tell(
            "train",
            {
                "step": self.state.step,
                "progress": progress,
                "seconds": elapsed,
                "loss": loss,
                "lr": self.optimizer.param_groups[0]["lr"],
                "images": self.state.images,
            },
        )

    def _affordable(self, elapsed: float) -> bool:
        """Whether a validation fits the budget; without one, always, so that runs of so many steps are alike."""
        budget = self.pace.budget_seconds
        if budget is None:
            return True
        return elapsed > FIRST_VALIDATION * budget and self.state.validation_seconds < VALIDATION_SHARE * elapsed

    def _validate(self, tell: Tell) -> None:
        """Scores the shown model on all processes, which then know the same; the first one keeps the best."""
        begun = time.monotonic()
        self._share_buffers()
        try:
            scores = dict(self.validate(self.shown))
        except FullyconvError as error:
            if error.code != "SEG-P005":
                raise
            raise self._diverged("the network's scores became NaN") from None
        seconds = self.of_the_first(time.monotonic() - begun)
        self.state.validation_seconds += seconds
        self.pace.keep_back((1 + 1.5 * self.accelerator.num_processes) * seconds)
        # Turned round, so that a score that is not a number is kept if there is no better one.
        better = not scores["mean_iou"] < self.state.best.get("mean_iou", -1.0)
        self.state.validated_step, self.state.last = self.state.step, scores
        self.state.best = scores if better else self.state.best
        if self.accelerator.is_main_process:
            if better:
                self.keep(self.shown, "model", scores)
            tell("validation", {"step": self.state.step, **scores, "best": better, "validation_seconds": seconds})
        self.accelerator.wait_for_everyone()

    def _diverged(self, what: str) -> FullyconvError:
        rate = self.recipe.learning_rate / 10
        return FullyconvError("SEG-T008", f"{what} at step {self.state.step}; train anew with --lr {rate:g}")

    def _share_buffers(self) -> None:
        """Gives every process the first one's running statistics, so that the model scored is the model saved."""
        if self.accelerator.num_processes > 1:
            for buffer in self.shown.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def of_the_first(self, value: float) -> float:
        """The first process's value, on all of them."""
        return self._total(value if self.accelerator.is_main_process else 0.0)

    def _total(self, value: float) -> float:
        """The values of all processes, added up."""
        if self.accelerator.num_processes == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(shared, reduction="sum"))


def _or_one(amount: Tensor) -> Tensor:
    """What a sum is divided by: one where nothing counts, since the sum is 0 then."""
    return torch.where(amount > 0, amount, 1)


def _to(batch: Batch, device: torch.device) -> Batch:
    image, target = batch
    return image.to(device, non_blocking=True), target.to(device, non_blocking=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
