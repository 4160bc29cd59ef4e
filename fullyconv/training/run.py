"""The door to training: options become a plan, the plan a loop, the loop a run folder."""

import copy
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from fullyconv import artefact, doctor, metrics
from fullyconv.arguments import Count, Within, bounded
from fullyconv.datasets import Dataset
from fullyconv.datasets.overlap import Seen
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import count, evaluate
from fullyconv.models import FCN, create, start_from
from fullyconv.prediction import Segmenter, load, ran_out, segmenters_of_heads
from fullyconv.report import write_report
from fullyconv.sampling import Stream
from fullyconv.training import checkpoints
from fullyconv.training.folders import (
    begun_with,
    fingerprint_of,
    newest_run,
    open_run,
    opened,
    run_folder,
    saved_plan,
)
from fullyconv.training.journal import Journal
from fullyconv.training.loading import CACHE_BYTES, Decoder, Feed, Samples, batches
from fullyconv.training.parts import out_of_memory, refuse_lone_values, refuse_uneven
from fullyconv.training.plan import (
    Plan,
    Precision,
    architecture_of,
    bands_of,
    class_weights_of,
    counted_pixels,
    precision_of,
    recipe_of,
    recorded,
    reduction_of,
    refuse_idle_tuning,
    refuse_large,
    refuse_rate_of_another_optimizer,
    refuse_rebuilding,
    refuse_scores_of_another_toolkit,
    seconds_of,
    stage_of,
    steps_of,
    weight_files,
)
from fullyconv.training.processes import agreed, process_group
from fullyconv.training.recipes import (
    SMALL,
    optimizer_of,
    parameter_groups,
    rate_goes_by_pixels,
    recipe_for,
    reduced,
    tune_scores_only,
)
from fullyconv.training.result import TrainingRun
from fullyconv.training.stages import staged_options, train_in_stages
from fullyconv.wording import counted, shortened

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fullyconv.training.loop import Loop

CHECKPOINT_SECONDS = 60.0
RECIPE_OPTIONS = ("batch", "optimizer", "schedule", "loss", "sampling", "balance", "ema", "growth", "tune")

# Above any rate that a loss here bears: what is larger is a slip.
Rate = Annotated[float, Within(least=0, most=1000)]


@bounded
def train(
    data: str | Path | Dataset,
    *,
    model: Annotated[str, "fcn{32,16,8,4}s-TRUNK"] | Segmenter = "fcn8s-resnet18",
    also: Sequence[Annotated[str, "[NAME=]DATA"] | Dataset] = (),
    val: Annotated[str, "DATA"] | Dataset | None = None,
    out: str | Path | None = None,
    epochs: Annotated[float, Within(above=0)] | None = None,
    steps: Count | None = None,
    budget: Annotated[str, "TIME"] | None = None,
    resume: bool = False,
    pretrained: Annotated[str, "none|hub|PATH,..."] = "none",
    staged: bool = False,
    recipe: Literal["default", "cvpr15", "heavy"] = "default",
    batch: Count | None = None,
    accumulate: Count = 1,
    lr: Rate | None = None,
    optimizer: Literal["adamw", "sgd"] | None = None,
    schedule: Literal["poly", "cosine", "constant"] | None = None,
    loss: Annotated[Literal["cross_entropy", "hardest", "dice", "focal"], "NAME"] | None = None,
    reduction: Literal["mean", "image", "sum"] | None = None,
    sampling: Annotated[float, Within(above=0, most=1)] | None = None,
    balance: Literal["none", "log", "median"] | None = None,
    ema: Annotated[float, Within(least=0, below=1)] | None = None,
    growth: Annotated[float, Within(least=0, most=1)] | None = None,
    tune: Literal["all", "score"] = "all",
    augment: Literal["default", "paper", "none"] | None = None,
    crop: tuple[Count, Count] | None = None,
    upscore: Literal["fixed", "learned", "all"] = "fixed",
    dropout: Annotated[float, Within(least=0, below=1)] = 0.0,
    alignment: Literal["grid", "centred"] = "grid",
    geometry: Literal["same", "caffe"] = "same",
    channels: Count | None = None,
    streams: Sequence[Count] | None = None,
    precision: Precision = "auto",
    workers: Annotated[int, Within(least=0)] | None = None,
    validations: Count = 20,
    report: bool = True,
    seed: int = 0,
) -> TrainingRun:
    """Train a fully convolutional network; keep the best model, its scores and pictures in a run.

    Args:
        data: Folder whose layout is recognised, or LAYOUT:PATH.
        model: Stride and trunk, or a model folder. A trunk is one of timm's or of the paper: vgg16, alexnet, googlenet,
            or torchvision:NAME. A folder is a converted or trained model, whose weights training starts from.
            With -atonce-, as in fcn8s-atonce-vgg16, the finer taps are scaled as in the paper's nets without stages.
        also: Other masks of the same images, each for a head: [NAME=]DATA. The losses of all heads are added; the mean
            IoU of the first head, that of `data`, decides which model is the best.
        val: Validate on other DATA, none of it trained on. On its val split, or on all of it if it has none; and all of
            `data` is trained on if that has none.
        out: Run folder; runs/DATA-MODEL if left out.
        epochs: Length in passes over the images; 100 if nothing is said.
        steps: Length in optimiser steps.
        budget: Length in time, such as 90s, 30m or 2h.
        resume: Go on where the run in --out stopped, by its own plan. Without --out, with the newest run on the data
            under runs/.
        pretrained: Start from timm's weights, or files or runs, one a stream. A file may hold a classifier or an FCN;
            what does not fit stays random, and is named. `none` starts at random.
        staged: Train FCN-32s, then 16s from it, and so on; each in OUT/32s, ...
        recipe: Base of the options below; cvpr15, heavy: the paper's. `default` is AdamW at 0.001 on batches of 8
            samples that are cut and varied. The others are SGD on whole images: `cvpr15` on 20 at momentum 0.9, by the
            mean of each image; `heavy` on 1 at momentum 0.99, by the sum over pixels.
        batch: Images per step, over all processes.
        accumulate: Parts that a batch is computed in, to save memory.
        lr: Learning rate at the top of the schedule.
        optimizer: adamw or sgd, with momentum.
        schedule: How the learning rate falls. `poly` is (1 - progress) ** 0.9, after a warm-up in the default recipe.
        loss: cross_entropy, hardest, dice or focal. All but cross_entropy go by parts of a batch; hardest is the
            cross-entropy of the fifth of each image's pixels where it is highest.
        reduction: How pixels share in cross_entropy; SGD's rate is converted. `mean` is over all pixels of a batch that
            count; `image` over those of each image, then over images; `sum` over pixels, then the mean over images. A
            rate that is given with --lr is not converted. Dice and focal are means.
        sampling: Probability that a pixel counts in the loss. The paper's sampling of patches; 1 counts all.
        balance: Class weights from pixel counts. `log` is 1 / log(1.02 + share); `median` is the median share divided
            by the share.
        ema: Decay of the averaged weights that are saved; 0 for none.
        growth: Share of the run on smaller samples first; 0 for none. They are 0.6 times as high and wide, so that more
            images are seen in the same time.
        tune: Whether all layers are trained, or the score layers alone.
        augment: How samples vary; paper mirrors and shifts whole images. `default` draws scale, place, proportions,
            mirroring and light; `none` takes images, or with --crop parts of them, as they are.
        crop: Height and width of training samples. Left out, the images' proportions at 288 x 384 pixels or fewer.
        upscore: Which upsampling is trained: that between taps, or all.
        dropout: Share of values dropped before the coarsest score layer. The paper's trunks have their own dropout,
            of 0.5, whatever is said here.
        alignment: By the trunk's grid, or centred as in other toolkits.
        geometry: caffe pads and crops the paper's trunks as released. For weights of the authors' release: 100 pixels
            around the image, and crops after each upsampling.
        channels: Bands of the images; found out if left out.
        streams: Late fusion: bands of each of several networks, such as 3,1. The further pictures are those of
            'DATA?images=rgb/{name}.png&masks=masks/{name}.png&more=depth/{name}.png'.
        precision: auto takes bf16 where it is faster.
        workers: Processes that decode and augment; 0 for none.
        validations: How often the run is validated. All images for it are decoded once before training begins, so that
            a bad one does not stop it later.
        report: Whether a report ends it; evaluate can draw one, too.
        seed: Of everything that chance decides.

    Raises:
        FullyconvError: SEG-U004 for a number out of its range; SEG-D, SEG-M and SEG-T codes for what cannot be trained.

    Example:
        fullyconv train data/ --model fcn8s-resnet18 --budget 30m --out runs/a
    """
    model = load(model) if isinstance(model, str) and Path(model).is_dir() else model
    options = {name: value for name, value in locals().items() if name not in ("data", "out", "resume")}
    begun = time.monotonic()
    if resume:
        out = out or newest_run(data, also, val)
        also, val = also or begun_with(out, "also") or (), val or begun_with(out, "val")
    dataset = opened(data, also, val)
    fingerprint = fingerprint_of(dataset)
    folder = run_folder(dataset, _name(model), None if out is None else Path(out), resume)
    saved = staged_options(folder) if resume else options if staged else None
    for stage in folder.glob("*/plan.json") if saved else ():
        saved_plan(stage.parent, dataset, fingerprint)
    examinations = [doctor.examine(head, splits=("train", "val")) for head in dataset.heads.values()]
    for head, examination in zip(dataset.heads.values(), examinations, strict=True):
        examination.refuse_if_broken()
        _refuse_unlabelled(head)

    def train_one(options: Mapping[str, Any], folder: Path, first: bool, resume: bool) -> TrainingRun:
        """A run, or a stage of one; the first of this command tells of the data, and its time has begun before."""
        plan = saved_plan(folder, dataset, fingerprint) if resume else _new_plan(data, dataset, fingerprint, options)
        finished = TrainingRun.read(folder) if resume else None
        if finished:
            print(f"{folder} is finished; --model {folder} begins another run with its weights", file=sys.stderr)
            return finished
        told, since = (examinations, begun) if first else ((), time.monotonic())
        with process_group() as state:
            plan = replace(plan, precision=agreed(precision_of(plan.precision), state))
            run = _Run(plan, dataset, folder, recorded(options), told, since)
            return run.carry_out(options["model"], resume=resume, workers=workers, report=options["report"])

    if saved is None:
        return train_one(options, folder, True, resume)
    with process_group() as state:
        state.wait_for_everyone()  # till all have found the folder empty; one of them writes to it next
        return train_in_stages(train_one, str(data), {**dict.fromkeys(options), **saved}, folder, dataset.layout)


def _new_plan(
    data: str | Path | Dataset, dataset: Dataset, fingerprint: dict[str, Any], options: Mapping[str, Any]
) -> Plan:
    """The plan that the options of `train` stand for."""
    model, pairs = options["model"], dataset.pairs("train")
    refuse_scores_of_another_toolkit(_name(model), options)
    refuse_idle_tuning(options)
    refuse_rebuilding(options)
    refuse_large(options["crop"], pairs)
    name = _name(model)
    stage = stage_of(name, options["pretrained"])
    base = recipe_for(options["recipe"], name.rpartition("-")[2], stage=stage, layout=dataset.layout)
    refuse_rate_of_another_optimizer(base, options)
    given = {name: options[name] for name in RECIPE_OPTIONS}
    given["learning_rate"] = options["lr"]
    bands = model.bands if isinstance(model, Segmenter) else bands_of(pairs, options["channels"])
    recipe = recipe_of(base, given, pairs, bands, augment=options["augment"], crop=options["crop"])
    reduction = reduction_of(recipe.loss, options["reduction"], recipe.reduction)
    if options["lr"] is not None:
        recipe = replace(recipe, reduction=reduction)  # a rate that is given is meant for it
    if isinstance(model, Segmenter):
        architecture = model.named_architecture()
    else:
        settings = {name: options[name] for name in ("streams", "upscore", "dropout", "alignment", "geometry")}
        architecture = architecture_of(model, dataset, bands, **settings)
    budget = options["budget"]
    return Plan(
        data=str(data),
        fingerprint=fingerprint,
        architecture=architecture,
        recipe=recipe,
        reduction=reduction,
        seed=options["seed"],
        steps=steps_of(options["epochs"], options["steps"], budget, len(pairs), recipe.batch),
        budget_seconds=None if budget is None else seconds_of(budget),
        parts=options["accumulate"],
        validations=options["validations"],
        precision=options["precision"],
        class_weights=None,
        pretrained=options["pretrained"],
        bands=bands,
        also=tuple(map(str, options["also"])),
        val=None if options["val"] is None else str(options["val"]),
    )


@dataclass(frozen=True)
class _Run:
    """One run of a plan into a folder; `begun` is when the command was given, on the monotonic clock."""

    plan: Plan
    dataset: Dataset
    folder: Path
    options: Mapping[str, Any]
    examinations: Sequence[doctor.Examination]
    begun: float

    def carry_out(self, model: str | Segmenter, *, resume: bool, workers: int | None, report: bool) -> TrainingRun:
        """Trains, and evaluates the best model and draws the report if that is wanted."""
        from accelerate import Accelerator  # a guest, only here

        from fullyconv.training.loop import StopRequest

        plan = self.plan
        torch.backends.cudnn.deterministic = True
        tracker = "tensorboard" if importlib.util.find_spec("tensorboard") else None
        accelerator = Accelerator(
            mixed_precision="bf16" if plan.precision == "bf16" else "no",
            log_with=tracker,
            project_dir=self.folder,
        )
        processes = accelerator.num_processes
        refuse_uneven(plan, processes)
        goes_on = resume and bool(checkpoints.files(self.folder / "checkpoints"))
        network, start = _network(model, plan, self.dataset, empty=goes_on)
        network = network.to(memory_format=torch.channels_last).to(accelerator.device)
        if plan.recipe.tune == "score":
            tune_scores_only(network)
        refuse_lone_values(plan, processes, network, self.dataset.pairs("train"))
        self._decoder("val", limit=0).try_share(accelerator.process_index, processes)
        decoder = self._decoder("train", limit=CACHE_BYTES // processes)
        if plan.recipe.balance != "none" and plan.class_weights is None:
            plan = replace(plan, class_weights=class_weights_of(decoder, plan.recipe.balance))
        plan, conversion = _converted(plan, decoder)
        with StopRequest() as stop:
            loop = self._loop(plan, network, decoder.ignore_index, accelerator)
            if goes_on:
                loop.restore()
                start = f"resumed at step {loop.state.step} by its own plan; other options given now do not count"
            elif resume:
                start = f"no checkpoint of the run is left, so it begins again; {start}"
            with self._watched(loop, resume=resume):
                if not goes_on and accelerator.is_main_process:
                    loop.checkpoint()  # first: what has a plan can go on, and a given model's weights are nowhere else
                    open_run(self.folder, plan, self.options)
                accelerator.wait_for_everyone()
                if tracker:
                    accelerator.init_trackers("tensorboard")
                journal = Journal(self.folder, accelerator, from_step=loop.state.step)
                told = _introduction(plan, self.examinations, self.dataset, network, start)
                for line in [*told, *conversion]:
                    journal.say(line)
                with journal, closing(self._feed(plan, decoder, accelerator, workers)) as feed:
                    loop.fit(feed, journal.write, stop)
        return self._finish(loop, accelerator, report)

    def _decoder(self, split: str, *, limit: int) -> Decoder:
        first, *others = ((head.pairs(split), head.labels) for head in self.dataset.heads.values())
        return Decoder(*first, self.plan.bands, also=others, limit=limit)

    def _loop(self, plan: Plan, network: FCN, ignore_index: int, accelerator: "Accelerator") -> "Loop":
        from fullyconv.training.loop import Loop, Objective, Pace

        labels = {name: head.labels for name, head in self.dataset.heads.items()}
        seen = Seen.of(self.dataset).to_json() if accelerator.is_main_process else {}
        weight = torch.tensor(plan.class_weights, device=accelerator.device) if plan.class_weights else None

        def keep(shown: FCN, name: str, scores: Mapping[str, float]) -> None:
            facts = {"metrics": dict(scores), "plan": plan.to_json(), "data": {**plan.fingerprint, "seen": seen}}
            several = labels if len(labels) > 1 else None
            first = self.dataset.labels
            artefact.save(self.folder / name, shown, first, plan.architecture, facts, bands=plan.bands, heads=several)

        def validate(shown: FCN) -> dict[str, float]:
            scores: dict[str, float] = {}
            for name, segmenter in segmenters_of_heads(shown, labels, plan.architecture, bands=plan.bands).items():
                head = self.dataset.heads[name]
                mine = head.pairs("val")[accelerator.process_index :: accelerator.num_processes]
                confusion = count(segmenter, mine, head.labels).confusion.to(accelerator.device)
                of_head = metrics.scores(accelerator.reduce(confusion, reduction="sum").cpu())
                prefix = f"{name}/" if scores else ""  # the first head's come bare: they decide which model is best
                scores |= {f"{prefix}{key}": value for key, value in of_head.items()}
            return scores

        return Loop(
            network,
            Objective(
                network,
                plan.recipe.loss,
                weight,
                ignore_index,
                heads=list(map(len, labels.values())),
                reduction=plan.recipe.reduction,
            ),
            plan.recipe,
            optimizer_of(plan.recipe, parameter_groups(plan.recipe, network)),
            accelerator,
            Pace(plan.steps, plan.budget_seconds, self.begun),
            seed=plan.seed,
            validations=plan.validations,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            run=self.folder,
            validate=validate,
            keep=keep,
        )

    def _feed(self, plan: Plan, decoder: Decoder, accelerator: "Accelerator", workers: int | None) -> Feed:
        recipe = plan.recipe

        def open_at(step: int, small: bool) -> Generator[tuple[Tensor, Tensor], None, None]:
            return batches(
                _samples(plan, decoder, small=small),
                step=step,
                batch=recipe.batch,
                parts=plan.parts,
                process=accelerator.process_index,
                processes=accelerator.num_processes,
                workers=_workers(accelerator.num_processes) if workers is None else workers,
            )

        return Feed(open_at, plan.parts, recipe.growth)

    @contextmanager
    def _watched(self, loop: "Loop", *, resume: bool) -> Iterator[None]:
        """Where the run is stopped, says how it goes on; where a new one fails before its first step, removes it."""
        from fullyconv.training.loop import InterruptedTrainingError

        try:
            yield
        except (InterruptedTrainingError, KeyboardInterrupt) as stopped:
            again = shlex.join(["fullyconv", "train", self.plan.data, "--out", str(self.folder), "--resume"])
            saved = "saved" if isinstance(stopped, InterruptedTrainingError) else "saved up to the last checkpoint"
            raise KeyboardInterrupt(f"stopped at step {loop.state.step}, {saved}; go on with: {again}") from None
        except Exception as fault:
            kept = resume or loop.state.step > 0
            if not kept and loop.accelerator.is_main_process:  # so that --out is free for another try
                for tracker in loop.accelerator.trackers:
                    tracker.finish()
                shutil.rmtree(self.folder, ignore_errors=True)  # it may not even have been made
            if not ran_out(fault):
                raise
            processes, pairs = loop.accelerator.num_processes, self.dataset.pairs("train")
            raise out_of_memory(self.plan, processes, pairs, loop.state.step, kept=kept) from fault

    def _finish(self, loop: "Loop", accelerator: "Accelerator", report: bool) -> TrainingRun:
        """Keeps the last model, and, for a report, scores the best one as `evaluate` does; on the first process."""
        speed = loop.of_the_first(loop.state.images / loop.pace.elapsed())
        try:
            if accelerator.is_main_process:
                loop.keep(loop.shown, "last", loop.state.last)
                if report:
                    self._evaluate()
                    write_report(self.folder)
            result = self._result(loop, speed)
            if accelerator.is_main_process:
                result.write()
        except KeyboardInterrupt:
            again = shlex.join(["fullyconv", "evaluate", str(self.folder), self.plan.val or self.plan.data])
            raise KeyboardInterrupt(f"trained, but the report is not drawn; score the model with: {again}") from None
        accelerator.wait_for_everyone()
        for tracker in accelerator.trackers:
            tracker.finish()
        return result

    def _evaluate(self) -> None:
        """Writes the report of each head: the first one's to `evaluation`, the others' to `evaluation-NAME`."""
        evaluate(self.folder, self.dataset, split="val", out=self.folder / "evaluation")
        for head in self.dataset.also:
            evaluate(self.folder, head, split="val", head=head.head, out=self.folder / f"evaluation-{head.head}")

    def _result(self, loop: "Loop", images_per_second: float) -> TrainingRun:
        return TrainingRun(
            run=self.folder,
            best=loop.state.best,
            epochs=loop.state.images / len(self.dataset.pairs("train")),
            steps=loop.state.step,
            images_per_second=images_per_second,
            minutes=loop.of_the_first(loop.pace.elapsed()) / 60,
        )


def _refuse_unlabelled(dataset: Dataset) -> None:
    for split in ("train", "val"):
        bare = [pair.image for pair in dataset.pairs(split) if pair.mask is None]
        if bare:
            raise FullyconvError(
                "SEG-T004",
                f"{len(bare)} of {counted(len(dataset.pairs(split)), 'image')} of split {split} have no mask, such as "
                f"{bare[0]}; label them or take them out of the split",
            )


def _name(model: str | Segmenter) -> str:
    return model if isinstance(model, str) else str(model.architecture.get("name", "model"))


def _network(model: str | Segmenter, plan: Plan, dataset: Dataset, *, empty: bool) -> tuple[FCN, str]:
    """The network as it starts, and a sentence that says from what; none where a checkpoint will give its weights.

    Args:
        model: A segmenter is copied.
        plan: Names the network and the weights that it starts from.
        dataset: Its classes are scored.
        empty: Whether a checkpoint will give them, so that none need be found.
    """
    if isinstance(model, Segmenter) and not empty:
        if dataset.also:
            raise FullyconvError(
                "SEG-M006",
                f"the data have labels for {len(dataset.heads)} heads ({', '.join(dataset.heads)}), a given model has "
                "one; name a network, and start from this one's weights with --pretrained",
            )
        unnamed = tuple(f"class {index}" for index in range(len(dataset.labels)))  # converted for so many classes
        if model.labels.names not in (dataset.labels.names, unnamed):
            raise FullyconvError(
                "SEG-M006",
                f"the classes of the model ({shortened(model.labels.names)}) are not those of the data "
                f"({shortened(dataset.labels.names)}); convert with the data's names or their number, or name a "
                "network and start from this one's weights with --pretrained",
            )
        return copy.deepcopy(model.model), "weights start as the given model's"
    torch.manual_seed(plan.seed)
    network = create(**plan.architecture, pretrained=plan.pretrained == "hub" and not empty)
    if empty:
        return network, ""
    if plan.pretrained == "hub":
        return network, "weights start as the classifier's from the hub"
    if plan.pretrained == "none":
        return network, "weights start at random; --pretrained hub or FILE starts from a classifier"
    files = weight_files(plan.pretrained)
    taken = start_from(network, *files)
    named = " and ".join(map(str, files))
    told = [f"{len(taken.kept)} of {len(taken.kept) + len(taken.missing)} tensors start as in {named}"]
    told += [f"new are {shortened(taken.missing)}"] if taken.missing else []
    told += [f"left out are {shortened(taken.dropped)}"] if taken.dropped else []
    return network, "; ".join(told)


def _workers(processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes - 1))


def _converted(plan: Plan, decoder: Decoder) -> tuple[Plan, list[str]]:
    """The plan with its loss reduced as wanted, and a sentence if that changed the learning rate."""
    recipe = plan.recipe
    if not rate_goes_by_pixels(recipe, plan.reduction):  # and none need be counted
        return replace(plan, recipe=replace(recipe, reduction=plan.reduction)), []
    pixels = counted_pixels(_samples(plan, decoder), plan.class_weights)
    changed = reduced(recipe, plan.reduction, pixels)
    told = (
        f"the loss is reduced by {changed.reduction}, not by {recipe.reduction}: at {pixels:.6g} counted pixels an "
        f"image, a learning rate of {recipe.learning_rate:g} becomes {changed.learning_rate:.6g} and a decay of "
        f"{recipe.weight_decay:g} becomes {changed.weight_decay:.6g}, so that the steps stay as they were"
    )
    return replace(plan, recipe=changed), [told]


def _samples(plan: Plan, decoder: Decoder, *, small: bool = False) -> Samples:
    augmentation = plan.recipe.augmentation
    shrunk = augmentation.shrunk(SMALL) if small and augmentation else augmentation
    return Samples(decoder, Stream(plan.seed, len(decoder.pairs)), shrunk, keep=plan.recipe.sampling)


def _introduction(
    plan: Plan, examinations: Sequence[doctor.Examination], dataset: Dataset, network: FCN, start: str
) -> list[str]:
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    recipe = plan.recipe
    length = counted(plan.steps, "step") if plan.steps else f"a budget of {(plan.budget_seconds or 0) / 60:.3g} minutes"
    heads = ", ".join(f"{name} ({counted(len(head.labels), 'class')})" for name, head in dataset.heads.items())
    return [
        *(f"{examination}\n" for examination in examinations),
        *([f"heads: {heads}"] if dataset.also else []),
        f"{plan.architecture['name']}: {parameters:.1f} M parameters, scores every {network.grid.stride} pixels from "
        f"pixel {float(network.grid.start):g}, receptive field {network.coarsest.field}, {plan.precision}",
        f"{length}, batch {recipe.batch}, {recipe.optimizer} at {recipe.learning_rate:g}, seed {plan.seed}",
        start,
    ]
