"""Whole experiments, from data to table: the quickstart, and those of the paper by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where data may be below the folder that the environment variable FULLYCONV_DATA names.

    Args:
        folder: That must be there.
        data: How its data set is opened; `%s` stands for the folder.
        also: Likewise, those of further heads.
        camera: What took its depth, as `reproduce` takes it.
    """

    folder: str
    data: str = "%s"
    also: tuple[str, ...] = ()
    camera: str | None = None


SCENES = (Place("VOCdevkit"), Place("voc2012_subset"), Place("camvid"))
FACADES = "folder:%s?images=images/{name}.jpg&masks=derived/"
HEADS = (
    Place("siftflow"),
    Place("labelmefacade", f"{FACADES}semantic/{{name}}.png", (f"geometric={FACADES}geometric/{{name}}.png",)),
)
RGBD = (
    Place("nyud", "nyud:%s?inputs=color,depth"),
    Place(
        "ycb_video_sample",
        "folder:%s/data?images={name}-color.png&masks={name}-label.png&more={name}-depth.png",
        camera="1066.778,1067.487,312.9869,241.3109,0.0001",  # source: the intrinsics of YCB-Video's first 60 videos
    ),
)


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Args:
        title: What it asks, in one line.
        source: Where the paper has it.
        target: `module:function` of this package, imported when it is run; takes a `Workbench`, gives `Findings`.
        data: Places of data that suit it, the best first; empty for one that needs none.
        takes: Options of `reproduce` that it heeds, beside the time and the folder.
        start: What its nets start from if nothing is said.
    """

    title: str
    source: str
    target: str
    data: tuple[Place, ...] = ()
    takes: tuple[str, ...] = ("data", "trunk", "pretrained", "seed")
    start: str = "crops"


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment("What do the three nets cost, and how far do they see?", "table 1", "nets:table1", takes=()),
    "dense-vs-patches": Experiment(
        "What does one pass over an image save against its patches?",
        "section 3.1",
        "dense_vs_patches:dense_vs_patches",
        takes=(),
    ),
    "upper-bounds": Experiment(
        "How well could a coarse net score at best?",
        "appendix A",
        "upper_bounds:upper_bounds",
        SCENES,
        ("data", "seed"),
    ),
    "table2": Experiment("What are finer taps and training the whole net worth?", "table 2", "stages:table2", SCENES),
    "loss-sampling": Experiment(
        "Does training on sampled patches learn faster than on whole images?",
        "section 4.3, figure 5",
        "learning:loss_sampling",
        SCENES,
    ),
    "augmentation": Experiment("Do mirrored and shifted images help?", "section 4.3", "learning:augmentation", SCENES),
    "fine-tuning": Experiment(
        "Does it take the whole net, and a classifier to start from?", "section 4.3", "learning:fine_tuning", SCENES
    ),
    "fusion": Experiment("Do taps score better together than alone?", "section 4.2", "fusion:fusion", SCENES),
    "two-heads": Experiment(
        "Does one net learn two kinds of labels as well as two nets?",
        "section 5, SIFT Flow",
        "heads:two_heads",
        HEADS,
        ("data", "also", "trunk", "pretrained", "seed"),
    ),
    "rgbd": Experiment(
        "What is depth worth, fused early or late?",
        "table 4, NYUDv2",
        "depth:rgbd",
        RGBD,
        ("data", "camera", "trunk", "pretrained", "seed"),
        "none",
    ),
}
