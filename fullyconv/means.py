"""What is taken from images before a net sees them: by the authors a mean per data set, and no division.

Source: voc_layers.py, pascalcontext_layers.py, siftflow_layers.py and nyud_layers.py of the authors' release, infer.py
for the digits of VOC's. Values are 0 to 255.
"""

# By layout; blue, green, red, as Caffe orders them.
BGR_MEANS = {
    "voc": (104.00698793, 116.66876762, 122.67891434),  # ImageNet's, to five digits in voc_layers.py
    "sbd": (104.00698793, 116.66876762, 122.67891434),
    "pascal_context": (104.007, 116.669, 122.679),
    "siftflow": (114.578, 115.294, 108.353),
    "nyud": (116.190, 97.203, 92.318),
}
HHA_MEAN = (132.431, 94.076, 118.477)  # in the order of the files: disparity, height, angle

# What timm's and torchvision's networks expect of images in [0, 1]; red, green, blue.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def statistics(layout: str, *, hha: bool = False) -> dict[str, tuple[float, ...]]:
    """The `mean` and `std` with which `models.create` makes a net that sees images as the authors' nets saw them.

    Args:
        layout: A key of `BGR_MEANS`.
        hha: The mean of NYUDv2's HHA pictures in place of its colours'.

    Returns:
        Of images in [0, 1], red first. The division by 1/255 undoes that of the image.
    """
    mean = HHA_MEAN if hha else BGR_MEANS[layout][::-1]
    return {"mean": tuple(value / 255 for value in mean), "std": (1 / 255,) * 3}
