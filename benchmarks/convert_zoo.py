"""Converts the smallest classifiers of every family of timm and torchvision, and lists what each became.

    OMP_NUM_THREADS=1 python benchmarks/convert_zoo.py --out docs/zoo.md

A family is a module of either library, such as `resnet` or `regnet`. Each network gets a file of random weights and
goes through `fullyconv.convert(NAME, pretrained=FILE)`, as `fullyconv convert` does. What is known so far is kept in
a file of JSON lines, so that a run that was stopped goes on; delete it to begin anew.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import model_entrypoint

import fullyconv
from fullyconv.errors import FullyconvError
from fullyconv.models import classifier

# Families whose networks mix positions by attention, state spaces, recurrence or linear layers.
MIXING = frozenset(
    (
        *("beit", "byoanet", "cait", "coat", "convit", "cpubone", "crossvit", "csatv2", "davit", "deepseek_vit"),
        *("deit", "edgenext", "efficientformer", "efficientformer_v2", "efficientvim", "efficientvit_mit"),
        *("efficientvit_msra", "eva", "fastvit", "gcvit", "gemma4_vit", "hiera", "hieradet_sam2", "iformer", "levit"),
        *("lowformer", "maxvit", "maxxvit", "metaformer", "mlp_mixer", "mobilenetv5", "mobilevit", "mvitv2"),
        *("naflexvit", "nest", "nextvit", "pit", "pvt_v2", "qwen3_vit", "sequencer", "shvit", "swiftformer"),
        *("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins"),
        *("visformer", "vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos"),
        *("vision_transformer_sam", "vitamin", "volo", "xcit"),
    )
)
LARGEST = 150e6  # parameters of a network that is tried
SMALL = 40e6  # parameters of one that is tried beside the smallest of its family
COLUMNS = "network, family, error, stride, taps, field, moves, M, s"
EXPLAINED = """\
- **error**: the largest difference of any logit from the classifier's at its own size, as a share of the largest logit.
- **stride**: pixels from one score of the network's own head to the next. **taps**: stride:channels of the maps scored.
- **field**: pixels that the coarsest score sees along an axis, by its local path alone.
- **moves**: yes if scores move with the image; no if some layer looks at the whole of it, such as attention,
  squeeze-and-excitation or a group norm, so that a shifted image or a tile gets other scores.
- **M**: millions of parameters of the classifier. **s**: seconds that `convert` took."""

Row = dict[str, Any]


class Notes:
    """What is known of each network, by its name, kept in a file of JSON lines."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, Row] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            self._take(json.loads(line))

    def add(self, name: str, **facts: Any) -> None:
        self._take({"network": name, **facts})
        with self.file.open("a") as file:
            file.write(json.dumps({"network": name, **facts}) + "\n")

    def _take(self, row: Row) -> None:
        self.rows[row["network"]] = {**self.rows.get(row["network"], {}), **row}


def families() -> dict[str, list[str]]:
    """The names of the classifiers of each module of timm and torchvision, without timm's networks for tests."""
    found = defaultdict(list)
    for name in timm.list_models(exclude_filters="test_*"):
        settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if settings is None or settings.num_classes:
            found[f"timm:{model_entrypoint(name).__module__.rpartition('.')[2]}"].append(f"timm:{name}")
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found[f"torchvision:{module}"].append(f"torchvision:{name}")
    return dict(found)


def count_parameters(name: str) -> int:
    """How many parameters a classifier has; without making any, where it can be built like that."""
    try:
        with torch.device("meta"):
            network = classifier(name).network
    except FullyconvError:  # torchvision's RegNets compute with numbers while they are built
        network = classifier(name).network
    return sum(parameter.numel() for parameter in network.parameters())


def chosen(notes: Notes) -> list[str]:
    """Three networks of each convolutional family and one of each other: the smallest, and further ones only if small.

    Convolutional families come first.
    """
    names = []
    for family, members in families().items():
        for name in members:
            if name not in notes.rows:
                notes.add(name, family=family.partition(":")[2], parameters=count_parameters(name))
        sizes = {name: notes.rows[name]["parameters"] for name in members}
        smallest = sorted((name for name in members if sizes[name] < LARGEST), key=sizes.__getitem__)
        further = [] if family.partition(":")[2] in MIXING else [name for name in smallest[1:3] if sizes[name] < SMALL]
        names += [*smallest[:1], *further]
    return sorted(names, key=lambda name: notes.rows[name]["family"] in MIXING)


def write_weights(name: str, file: Path) -> None:
    """A file of a classifier's random weights: its own, but for what starts constant, which is stirred a little.

    Else branches that start at zero would hide what a conversion does to them.
    """
    torch.manual_seed(0)
    state = classifier(name).network.state_dict()
    for key, tensor in state.items():
        stirred = tensor.is_floating_point() and tensor.numel() and tensor.min() == tensor.max()
        state[key] = tensor + 0.1 * torch.randn_like(tensor) if stirred else tensor.clone()
    save_file(state, file)


def converted(name: str) -> Row:
    """The certificate of a classifier, or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.safetensors"
        try:
            write_weights(name, file)
            begun = time.perf_counter()
            segmenter = fullyconv.convert(name, classes=2, pretrained=str(file))
        except FullyconvError as error:
            return {"refused": str(error)}
        except Exception as error:  # a fault of ours: the list must show it, and go on
            return {"refused": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    certificate = {
        key: value for key, value in segmenter.facts["certificate"].items() if key not in ("kept", "dropped")
    }
    return {"certificate": certificate, "seconds": round(time.perf_counter() - begun, 1)}


def short(row: Row) -> str:
    """The name of a network as `fullyconv convert` takes it; timm's need no prefix."""
    return str(row["network"]).removeprefix("timm:")


def reason(row: Row) -> str:
    """Why a network was refused: without the code, what all refusals begin with, and the advice at the end."""
    text = row["refused"].removeprefix("SEG-M002").rpartition("; try ")[0] or row["refused"]
    return str(text.rpartition("cannot be made fully convolutional: ")[2]).strip().replace("|", "/")


def line(row: Row) -> str:
    certificate = row["certificate"]
    taps = " ".join(f"{tap['stride']}:{tap['channels']}" for tap in certificate["taps"])
    cells = [
        *(short(row), row["family"], f"{certificate['relative']:.0e}", certificate["stride"], taps),
        *(certificate["receptive_field"], "yes" if certificate["translation_exact"] else "no"),
        *(f"{row['parameters'] / 1e6:.1f}", row["seconds"]),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def table(title: str, rows: list[Row]) -> str:
    """One part of the list: those that converted, and below them those that did not, with the reason."""
    done, refused = [row for row in rows if "certificate" in row], [row for row in rows if "refused" in row]
    head = f"| {' | '.join(COLUMNS.split(', '))} |\n|{'---|' * len(COLUMNS.split(', '))}"
    parts = [f"## {title}", summary(rows), "\n".join([head, *map(line, done)])]
    if refused:
        reasons = [f"| {short(row)} | {row['family']} | {reason(row)} |" for row in refused]
        parts += ["Refused:", "\n".join(["| network | family | reason |", "|---|---|---|", *reasons])]
    return "\n\n".join(parts)


def summary(rows: list[Row]) -> str:
    done = [row for row in rows if "certificate" in row]
    tried = {row["family"] for row in rows}
    whole = tried - {row["family"] for row in rows if "refused" in row}
    worst = max((row["certificate"]["relative"] for row in done), default=0)
    return (
        f"{len(whole)} of {len(tried)} families convert whole ({100 * len(whole) / len(tried):.0f} %), {len(done)} of "
        f"{len(rows)} networks. The largest error is {worst:.0e}."
    )


def processor() -> str:
    names = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()


def page(rows: list[Row]) -> str:
    """The whole document."""
    convolutional = [row for row in rows if row["family"] not in MIXING]
    others = [row for row in rows if row["family"] in MIXING]
    command = f"python {' '.join(map(shlex.quote, sys.argv))}"
    versions = f"torch {torch.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}"
    return (
        "\n\n".join(
            [
                "# Classifiers that convert",
                f"{len(rows)} classifiers of {len({row['family'] for row in rows})} families of timm and torchvision, "
                "converted with random weights: of each convolutional family its three smallest networks, of each "
                f"other its smallest. Further ones than the smallest are below {SMALL / 1e6:.0f} million parameters, "
                f"and none has {LARGEST / 1e6:.0f} million. What does not convert is listed with the reason.",
                EXPLAINED,
                f"Written by `{command}`; {processor()}, {torch.get_num_threads()} thread, {versions}.",
                table("Convolutional families", convolutional),
                table("Families with attention and other mixing of positions", others),
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/zoo.md"))
    parser.add_argument("--notes", type=Path, default=Path("zoo.jsonl"), help="what is known so far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    notes = Notes(options.notes)
    names = chosen(notes)
    for number, name in enumerate(names, 1):
        if not notes.rows[name].keys() & {"certificate", "refused"}:
            notes.add(name, **converted(name))
            print(f"{number}/{len(names)} {name}: {notes.rows[name].get('refused', 'converted')}", flush=True)
    rows = [notes.rows[name] for name in names]
    options.out.write_text(page(sorted(rows, key=lambda row: (row["family"], row["network"]))))


if __name__ == "__main__":
    main()
