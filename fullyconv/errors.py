"""What can go wrong, with a code for each fault: what happened, why, and the cure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue that `fullyconv explain CODE` prints."""

    title: str
    why: str
    cure: str


class FullyconvError(ValueError):
    """A fault of the input, not of the program: one clear sentence with its code.

    Args:
        code: A key of `FAULTS`, such as `SEG-D001`.
        message: What was expected, what came, where, how many, and the way out.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}  {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["FullyconvError"], tuple[str, str]]:
        return FullyconvError, (self.code, self.message)  # so that it crosses from worker to main process


FAULTS: dict[str, Fault] = {
    # B: benchmark
    "SEG-B001": Fault(
        "There is nothing of this name to measure",
        "The word after `fullyconv benchmark` names a suite of works and --only some of its works, and this name is "
        "not among them.",
        "`fullyconv benchmark` without a name lists the suites; the message lists their works.",
    ),
    "SEG-B002": Fault(
        "The file cannot take the measurements",
        "--out names a .json file, and rows are added to one that is there only if it was measured on the same machine "
        "with as many threads and at the same sizes, full or --quick: others must not stand in one table.",
        "Name another file with --out.",
    ),
    # D: datasets, images and masks
    "SEG-D001": Fault(
        "The path does not exist",
        "A file or folder was named that is not there.",
        "Compare the name with the nearest existing one, which the message gives; relative paths count from the "
        "folder you are in.",
    ),
    "SEG-D002": Fault(
        "The layout is not recognised",
        "The folder looks like none of the layouts: CamVid, PASCAL VOC, PASCAL-Context, SBD, NYUDv2, SIFT Flow, "
        "Cityscapes, ADE20K, a manifest, or images beside masks.",
        "Put pictures into images/ and label maps of the same names into masks/, name another layout as LAYOUT:PATH, "
        "or write a manifest: a CSV file with the columns image and mask.",
    ),
    "SEG-D003": Fault(
        "No image has a mask",
        "Images and masks are paired by folder and file name, and no two agreed.",
        "Rename the masks after the images, or say how the names go together: "
        "folder:PATH?images=img/{name}.jpg&masks=gt/{name}_L.png",
    ),
    "SEG-D004": Fault(
        "There is no layout of this name",
        "The word before the colon of LAYOUT:PATH is not the name of a layout.",
        "Take one of the names in the message, or give the path alone and let it be recognised.",
    ),
    "SEG-D005": Fault(
        "The data set has no such split",
        "The split asked for is not among those that the data set's folders or list files name.",
        "Ask for one of the splits in the message, or add a folder or list file of that name.",
    ),
    "SEG-D006": Fault(
        "A list of files cannot be used",
        "A list file or manifest is empty, names files that are not there, lacks the columns image and mask, or names "
        "a split that is no name for a folder.",
        "Correct the entries that the message gives; names count from the folder of the list.",
    ),
    "SEG-D007": Fault(
        "The classes file cannot be read",
        "classes.json, classes.txt or another file of class names has a form that is not understood, or gives one "
        "value or colour to two classes.",
        'Write a list of names, ["background", "road"], or names with their raw values or colours, '
        '{"background": 0, "road": "#804080"}.',
    ),
    "SEG-D008": Fault(
        "Image and mask differ in size",
        "Every pixel of the image needs a label. A mask turned against its image usually means that one of them lost "
        "its EXIF orientation.",
        "Export the mask again at the image's size, with nearest-neighbour sampling; for lost EXIF orientation, "
        "fullyconv check DATA --fix DIR turns the masks.",
    ),
    "SEG-D009": Fault(
        "A file cannot be decoded",
        "It is no picture, is cut short, or is of a kind that the reader does not know.",
        "Copy or export the file again, or remove it together with its partner.",
    ),
    "SEG-D010": Fault(
        "A mask holds a value that no class stands for",
        "Each raw value or colour in a mask must stand for a class or for ignore. Training on an unknown one would "
        "crash on a GPU, or teach the wrong class.",
        "Add the value to classes.json, or let fullyconv check DATA --fix DIR write a copy in which it is ignored.",
    ),
    "SEG-D011": Fault(
        "The file does not hold what is needed",
        "The picture has another number of channels, or numbers outside the range that its kind allows.",
        "Convert the file, or use a model that reads the channels that it has.",
    ),
    "SEG-D012": Fault(
        "Masks of 0 and 255 are read as class indices",
        "255 normally means ignore, so class 1 would never be trained.",
        "Let 255 stand for class 1: fullyconv check DATA --fix DIR writes such masks, or say so in classes.json: "
        '{"background": 0, "foreground": 255}.',
    ),
    "SEG-D013": Fault(
        "Masks look resampled or smoothed",
        "Values lie between those of two classes along their border, as bilinear resizing, smoothed drawing or JPEG "
        "compression leaves them.",
        "Export the masks as PNG with nearest-neighbour sampling and without smoothing; of two classes coded 0 and "
        "255, and of coloured classes listed in classes.json, fullyconv check DATA --fix DIR writes a clean copy.",
    ),
    "SEG-D014": Fault(
        "The classes file does not describe the masks",
        "The colours or values that it lists occur in no mask, or in only a few pixels; or the masks hold more values "
        "than it has names, so that it cannot be known which name belongs to which.",
        "Correct the colours in the classes file, or give every value a name: background first, void last. Until then "
        "the colours or values found in the masks are the classes.",
    ),
    "SEG-D015": Fault(
        "A class occurs in no mask",
        "It cannot be learnt, and its score is undefined.",
        "Label some, take the class out of the classes file, or ignore this warning.",
    ),
    "SEG-D016": Fault(
        "A mask holds nothing but ignored pixels",
        "Its image teaches nothing and counts in no score.",
        "Take the pair out, or label it.",
    ),
    "SEG-D017": Fault(
        "Image and mask carry different EXIF orientations",
        "The image is turned on reading and its mask is not, or the other way round.",
        "Look at one such pair. If its mask is turned, write the images anew without the tag.",
    ),
    "SEG-D018": Fault(
        "The same image is in two splits",
        "A model that has been trained on an image scores too well on it.",
        "Take the duplicates out of one of the splits.",
    ),
    "SEG-D019": Fault(
        "Grey and colour images are mixed",
        "Both are read as RGB, but a model may learn to tell them apart instead of the classes.",
        "Nothing needs to be done if new images will be mixed too.",
    ),
    "SEG-D020": Fault(
        "The data set is tiny",
        "With so few images the scores depend on chance.",
        "Add images, or judge by several seeds.",
    ),
    "SEG-D021": Fault(
        "Images or masks without a partner",
        "They are left out of a folder's splits; a list that names them cannot be used as it is.",
        "Add the missing files, or delete the widows.",
    ),
    "SEG-D022": Fault(
        "The masks are no label maps",
        "They hold hundreds of different values, as photographs, depth maps and instance maps do.",
        "Point to the folder of class masks: folder:PATH?images=rgb/{name}.png&masks=classes/{name}.png",
    ),
    "SEG-D023": Fault(
        "The output folder is not empty",
        "Nothing is ever overwritten, nor are two images written to one file.",
        "Name a folder that does not exist yet; give images of one name different names.",
    ),
    "SEG-D024": Fault(
        "A kind of file needs an optional package",
        "This kind of file needs a package that is not installed by default.",
        "Install it with the command in the message.",
    ),
    "SEG-D030": Fault(
        "The pictures of a scene do not go together",
        "A network that was trained on several pictures of each scene, such as colour and depth, reads them all, pixel "
        "by pixel; or a list gives some images further pictures, and others none.",
        "Give every image its further pictures, alike in number and size: a template more=depth/{name}.png beside "
        "images= and masks=, a column more in a manifest, --more on the command line.",
    ),
    "SEG-D025": Fault(
        "The layout has no such option, or not this value",
        "LAYOUT:PATH?option=value sets how a data set is read, and each layout has options of its own; `train` and "
        "`val` name one of the splits in every layout.",
        "Take an option and a value that the message lists, and quote the whole: ? and & mean something to shells.",
    ),
    "SEG-D031": Fault(
        "The labels of several heads do not go together",
        "Each head learns from masks of the same images, which are found by their names; and heads are named after the "
        "folders of their masks.",
        "Give --also a data set whose images or masks are called like those of DATA, and name its head with NAME=DATA.",
    ),
    # E: evaluation and scores
    "SEG-E001": Fault(
        "The truth holds a value that is no class",
        "A mask to score against has a value outside 0 to K - 1 that is not the ignore value. Counting it would alias "
        "it to another class, dropping it would flatter the score.",
        "Give the data set's label set (`--data`), or map the value to a class or to ignore; "
        "`fullyconv check DATA --json` lists such masks.",
    ),
    "SEG-E002": Fault(
        "A prediction holds a value that is no class",
        "A predicted mask has a value outside 0 to K - 1 on a pixel whose truth counts. A prediction must decide: the "
        "ignore value is allowed only where the truth is ignored too.",
        "Write class indices 0 to K - 1 (the order of the label set), or the data set's own colours or raw values.",
    ),
    "SEG-E003": Fault(
        "Truth and prediction differ in size",
        "Scores are counted pixel by pixel at the size of the truth; a resized prediction would be another number.",
        "Predict at the image's own size, or enlarge the prediction to it (nearest neighbour) before scoring.",
    ),
    "SEG-E004": Fault(
        "The data has classes that the model does not know",
        "Model and data are matched by class name. A class that the model cannot predict would score 0 for a reason "
        "that has nothing to do with the model's skill.",
        "Of a model with several heads, name the one that knows the classes with --head. Else name the classes alike "
        "(classes.json beside the data), evaluate on the kind of data that the model was trained on, or train on this.",
    ),
    "SEG-E005": Fault(
        "A split cannot be scored",
        "Scores compare predictions with the truth, and images of this split have no mask.",
        "Choose a split that has masks (`--split`), or give the missing masks.",
    ),
    "SEG-E006": Fault(
        "Predictions and truth cannot be matched",
        "`score` matches masks by the names of their files. A truth without a prediction must not be left out, "
        "or the score would be that of the easy images.",
        "Give every true mask a prediction of the same name, in whatever format, or point TRUTH at a folder of just "
        "the masks to be scored.",
    ),
    "SEG-E007": Fault(
        "The folder for a report holds something else",
        "A report replaces an earlier report as a whole; anything else in the folder would be lost.",
        "Give `--out` a new folder.",
    ),
    "SEG-E008": Fault(
        "Predictions can be read in two ways",
        "Every number in the predicted masks is both a class index, 0 to K - 1, and a raw value of the data set, and "
        "the two do not mean the same class.",
        "Say which it is: `--coding index` or `--coding raw`.",
    ),
    "SEG-E009": Fault(
        "The model was trained on images of this split",
        "A model has learnt the images that it was trained on, so scores on them say little about others. Images are "
        "known again by their content, and by their names where these are the photographs' own, as PASCAL VOC's are.",
        "Score a split that holds none of them. Of VOC, for a model trained on SBD: 'sbd:SBD?voc=VOC2011' with --split "
        "seg11valid.",
    ),
    # M: models and model folders
    "SEG-M001": Fault(
        "Unknown model",
        "A model's name is fcn32s-, fcn16s-, fcn8s- or fcn4s- and a classifier: vgg16, a network that timm knows, "
        "or torchvision:NAME. What hf-hub:ID, local-dir:FOLDER and file.py:function hold has to be converted first.",
        "Take the nearest name that the message offers, such as fcn8s-resnet18.",
    ),
    "SEG-M002": Fault(
        "The classifier cannot be made fully convolutional",
        "Its graph must be traceable, its head pool, flatten, norm, activation and linear layers, and its body must "
        "take images of any size. Scores are taken from feature maps at strides 4, 8, 16 and 32; vision transformers "
        "and some networks have only one or two of these.",
        "Use the coarser fcn16s- or fcn32s- form that the message offers, or another classifier; in a network of your "
        "own, mend the layer that the message names.",
    ),
    "SEG-M003": Fault(
        "Pretrained weights cannot be fetched",
        "--pretrained hub asks timm to download the classifier's weights, and the hub could not be reached.",
        "Fetch the file on another machine and give its path with --pretrained, or train from scratch with "
        "--pretrained none.",
    ),
    "SEG-M004": Fault(
        "No readable weights",
        "--pretrained takes a .safetensors, .pth or .caffemodel file, a model folder or a run folder, and import takes "
        "such files. Pickled objects are never executed.",
        "Check the path; fetch a damaged file again; save a pickled network again as its state_dict.",
    ),
    "SEG-M005": Fault(
        "The weights are of another network",
        "Weights are taken over by name and number of values. None of the file's fits the network's trunk; or, of a "
        "classifier to be converted, some are missing, or have no place in it as those of a deeper network have none.",
        "Choose the model whose trunk the file was made for.",
    ),
    "SEG-M006": Fault(
        "The number of classes does not fit",
        "A network scores as many classes as its last layer has channels, which is not the number of classes here; or "
        "there are more than the 65,535 that a mask of 16 bits can tell apart.",
        "Make a new model for this data; --pretrained RUN keeps the trunk's weights.",
    ),
    "SEG-M007": Fault(
        "A network that cannot be built again",
        "A model folder holds weights and the name of the network that they belong to; this network has none.",
        "Give Segmenter the arguments of models.create as its architecture.",
    ),
    "SEG-M020": Fault(
        "Not the published file",
        "The file has the name of one that pytorch-fcn published, but not its MD5: it is damaged, or another one.",
        "Fetch it again; give a file of your own another name.",
    ),
    "SEG-M021": Fault(
        "Trained upsampling kernels would be lost",
        "The file's upsampling is not bilinear, and that of the network is, unless it is said that it is learned. "
        "Every class has one kernel: what a kernel carries from one class to another has no place in either.",
        "Give the --upscore that the message names.",
    ),
    "SEG-M022": Fault(
        "The file could be several networks",
        "An FCN-8s that was trained in stages and one that was trained at once have the same layers; so have nets of "
        "other data or inputs. A guess would give wrong scores without a word.",
        "Say which it is with --as; the message names those that fit.",
    ),
    "SEG-M023": Fault(
        "The file is of another network",
        "Its layers are not those of the network that --as names, or, without --as, not those of any network of the "
        "authors' release: it is a classifier, or of another toolkit.",
        "Take a name that the message offers; start training from a classifier with --pretrained.",
    ),
    "SEG-M012": Fault(
        "The folder holds other things than a model",
        "A model folder is replaced as a whole, and what else stands in it would be lost.",
        "Save under a new name, or into an empty folder.",
    ),
    "SEG-M010": Fault(
        "No model there",
        "A model folder holds config.json and model.safetensors; a run folder holds one under model/.",
        "Check the path; `fullyconv train DATA` makes a run.",
    ),
    "SEG-M011": Fault(
        "Damaged model folder",
        "config.json or model.safetensors is truncated, altered, of another network, or of a later version's format.",
        "Copy the folder again from where it was made, or update fullyconv where the message says so.",
    ),
    "SEG-M030": Fault(
        "The network cannot be made dense",
        "Its strides can be traded for dilation only if each convolution and pool is a module of its own, read at one "
        "stride, and nothing looks at the whole map: no flattening, global pooling, attention or upsampling.",
        "Take the trunk without its head, turn linear layers into convolutions, or use shift_and_stitch, which takes "
        "any network.",
    ),
    "SEG-M050": Fault(
        "The conversion is not exact",
        "At the classifier's own size, the converted network must give its logits within 1e-4 of their largest.",
        "In a network of your own, see that it is deterministic in eval() and that its head only pools and scores.",
    ),
    "SEG-M051": Fault(
        "A Python file gives no network",
        "file.py:function names a function without arguments that gives a torch.nn.Module, a classifier.",
        "Check the path and the function; run python -c 'import file; file.function()' to see it fail.",
    ),
    "SEG-M052": Fault(
        "A network of another toolkit cannot be made",
        "Networks named smp: are made by segmentation-models-pytorch, and those named hf: by transformers, which must "
        "be installed and know the name.",
        "pip install segmentation-models-pytorch, or 'fullyconv[hf]'; take the name of a decoder and encoder, such as "
        "smp:Unet:resnet18.",
    ),
    "SEG-M040": Fault(
        "There is no such head",
        "A network that was trained with --also has a head for each set of labels, each with a name of its own.",
        "Take one of the names in the message; without --head, the first head answers.",
    ),
    "SEG-M041": Fault(
        "The streams do not share out the bands",
        "In a late fusion each stream is a network that sees some bands of the image, in order; together they see all. "
        "Each may start from weights of its own.",
        "Give --streams the bands of each, such as 3,1 for colours and depth, and --pretrained one file, or one for "
        "each stream.",
    ),
    # P: prediction
    "SEG-P001": Fault(
        "No images to predict",
        "An input is a file, a folder of images, or a glob; this one leads to none.",
        "Check the path; quote globs so that the shell leaves them alone.",
    ),
    "SEG-P002": Fault(
        "Two inputs would share an output",
        "Masks are named after their images; where names repeat, after folder or suffix, too. These still coincide.",
        "Rename one, or predict them apart, each into its own --out.",
    ),
    "SEG-P003": Fault(
        "The masks exist already",
        "Predictions never overwrite files.",
        "Choose another --out, or remove the old masks.",
    ),
    "SEG-P004": Fault(
        "A tile that does not fit the network",
        "Tiles must start where the coarsest map has its cells, so their side is a multiple of its stride.",
        "Take the size that the message offers, or auto.",
    ),
    "SEG-P005": Fault(
        "The network gives scores that are no numbers",
        "A class cannot be chosen among NaN. Weights that hold NaN or infinities give them, and so do numbers beyond "
        "what the precision holds.",
        "Load an earlier checkpoint; of bf16, take --precision fp32.",
    ),
    "SEG-P006": Fault(
        "Not even the smallest tile fits into memory",
        "Tiles are halved when memory runs out, down to the coarsest stride of the network.",
        "Close other programs, raise the memory limit of the container, or take a smaller network.",
    ),
    "SEG-P007": Fault(
        "The disk has no room for the label map",
        "The label map of a large image grows on the disk, a byte per pixel, before it is compressed.",
        "Free some space and repeat the command, which goes on where it stopped; or choose another --out.",
    ),
    "SEG-P008": Fault(
        "What is unfinished is of another image, model, precision or tile",
        "A command that was stopped goes on when it is given again. To go on with another model, precision, tile or "
        "image would give one folder of two predictions.",
        "Give the same model, images, --precision and --tile again, or choose another --out.",
    ),
    "SEG-P009": Fault(
        "Some of the images could not be read",
        "One damaged file does not keep the others from being predicted; the reasons stand above, of the first five.",
        "Mend the files, or move them away, and predict them alone.",
    ),
    "SEG-P020": Fault(
        "The runtime cannot compute this network",
        "Packed layers need a graph of the network, ONNX Runtime and OpenVINO one for images of every size, compiling "
        "a C++ compiler; and on a GPU, PyTorch computes.",
        "Leave --runtime out, or give --runtime torch, which computes every network.",
    ),
    # R: reproducing the paper
    "SEG-R001": Fault(
        "There is no such experiment",
        "The word after `fullyconv reproduce` names an experiment of the paper, and this name is not among them.",
        "`fullyconv reproduce` without a name lists them.",
    ),
    "SEG-R002": Fault(
        "An experiment cannot be set up like this",
        "It needs some time, data of its kind (depth beside the images, say, or two sets of labels for them), and no "
        "option that it would not heed.",
        "Follow the message; without --data, every experiment finds or makes its own small data.",
    ),
    "SEG-R003": Fault(
        "No experiment to go on with",
        "--resume follows the settings.json of the folder in --out, and there is none, or one of another experiment, "
        "or one that differs from options given beside it.",
        "Leave --resume out to begin the experiment, or check --out; leave out the options that the message names.",
    ),
    # T: training
    "SEG-T001": Fault(
        "The run folder exists already",
        "A run is never overwritten.",
        "Go on with it by --resume, or choose another name with --out.",
    ),
    "SEG-T002": Fault(
        "Nothing to resume",
        "--resume follows the plan.json of the run in --out, and there is none, or none that this version can read.",
        "Leave --resume out to begin the run, or check --out; an edited plan.json must be put back as it was.",
    ),
    "SEG-T003": Fault(
        "No readable checkpoint",
        "All checkpoints of the run are damaged, although each is written whole or not at all; the disk may be.",
        "Train anew under another --out.",
    ),
    "SEG-T004": Fault(
        "An image without a mask",
        "Training needs a mask for every image of the train and val splits.",
        "Label the image or take it out of the split.",
    ),
    "SEG-T005": Fault(
        "Image and mask differ in size",
        "Every pixel of an image needs its own value in the mask.",
        "Export the mask at the image's size, without resampling colours; `fullyconv check DATA --json` lists them.",
    ),
    "SEG-T006": Fault(
        "The length of the run is unclear",
        "A run is as long as one of --epochs, --steps or --budget says.",
        "Give one of them, above zero; a budget such as 90s, 30m or 2h.",
    ),
    "SEG-T007": Fault(
        "The batch cannot be split evenly",
        "Every process takes the same number of images per step, in the same number of parts.",
        "Take the batch size that the message offers.",
    ),
    "SEG-T009": Fault(
        "Other data than the run was begun with",
        "A resumed run draws the same images in the same order, so the files of its train and val splits must be the "
        "same.",
        "Give the data as they were; or begin a new run that starts from the old one's weights with --pretrained.",
    ),
    "SEG-T010": Fault(
        "A network without stages",
        "--staged trains FCN-32s, then FCN-16s from its weights, and so on up to the network that is named. An FCN-32s "
        "is the first stage itself, and a network with -atonce- is made to be trained without stages.",
        "Name a network with finer taps, such as fcn8s-vgg16, or leave --staged out.",
    ),
    "SEG-T012": Fault(
        "An option that could do nothing",
        "Two options exclude each other, or one changes a part of training, or of a network to import, that another "
        "leaves out. To pass over it silently would be to do otherwise than was asked.",
        "Leave out the option that the message names, or give what it needs.",
    ),
    "SEG-T013": Fault(
        "Samples larger than the images",
        "What a sample covers beyond its image is padding, which takes memory and time and teaches nothing. --crop is "
        "given in pixels, height first.",
        "Give a --crop that is no larger than the images.",
    ),
    "SEG-T014": Fault(
        "A batch norm would get a single value",
        "A batch norm in training goes by the mean and the deviation of each channel over a part of a batch. Of one "
        "sample whose coarsest map is one cell there is one value, and no deviation.",
        "Give larger parts by --batch or a smaller --accumulate, or larger samples by --crop.",
    ),
    "SEG-T015": Fault(
        "Memory ran out in training",
        "What a network keeps for its gradients grows with the pixels that are computed at a time. A run that begins "
        "on small samples (--growth) takes its full memory only after that.",
        "Before the first step, nothing is lost: take more parts with --accumulate or smaller samples with --crop. "
        "Later, --resume goes on from the last checkpoint where more memory is free, by the run's own plan; or begin "
        "another run, which --pretrained starts from the model that this one has kept.",
    ),
    "SEG-T008": Fault(
        "The loss is not a number",
        "The learning rate is too high for this loss, or the images hold infinities. The summed loss of the recipe "
        "`heavy` needs rates about 100,000 times smaller than a mean.",
        "Lower --lr tenfold, and train under another --out.",
    ),
    "SEG-T020": Fault(
        "Images for validation are trained on",
        "Two data sets may hold the same photographs: much of PASCAL VOC's val is in the train list of SBD. Or one "
        "split was named as train and as val. Scores on them flatter, and the best model is chosen by them.",
        "Validate on images that are not trained on. Of VOC: --val 'sbd:SBD?voc=VOC2011&val=seg11valid'.",
    ),
    "SEG-T021": Fault(
        "The data for validation have other classes",
        "The masks of --val must use the same raw values for the same classes as the data to train on.",
        "Give both the same classes.json, or name a data set of the same layout.",
    ),
    "SEG-T030": Fault(
        "A target holds a value that is no class",
        "The loss met a mask value that is neither a class of the model nor the value to ignore. To skip it silently "
        "would train on less than was labelled.",
        "Give the model as many classes as the data, or map the value to a class or to ignore; `fullyconv check DATA "
        "--json` lists such masks.",
    ),
    # U: the command line
    "SEG-U001": Fault(
        "There is no such command",
        "The first word after `fullyconv` names what to do, and this name is not among them.",
        "`fullyconv --help` lists the commands.",
    ),
    "SEG-U002": Fault(
        "The command has no such option",
        "Options differ from command to command. Abbreviations are not accepted, so that scripts keep their meaning.",
        "`fullyconv COMMAND --help` lists the options.",
    ),
    "SEG-U003": Fault(
        "Something is missing, or one too many",
        "The command needs a value that was not given, an option stands without its value, or there are more words "
        "than it takes. A path with spaces counts as several words unless it is quoted.",
        "Compare with the usage line of `fullyconv COMMAND --help`, and quote paths that hold spaces.",
    ),
    "SEG-U004": Fault(
        "A value is not what the option takes",
        "The option takes a number, one of a few words, or a list, and what was given is none of these, or is a number "
        "out of the range that makes sense.",
        "Give what the message names; lists are written with commas, such as `288,384`.",
    ),
    "SEG-U005": Fault(
        "There is no such error code",
        "Codes look like SEG-D010: a letter for the part of the program, then three digits.",
        "`fullyconv explain` lists all codes.",
    ),
    "SEG-U006": Fault(
        "The configuration file cannot be used",
        "It does not exist, is not YAML, or names an option that the command does not have.",
        "Give a YAML file of `option: value` lines, such as the args.yaml of a run folder.",
    ),
    "SEG-U007": Fault(
        "The operating system refused a file",
        "The path does not exist, is not ours to read or write, or the disk is full.",
        "Check the path, its permissions and the free space; nothing that was there before has been changed.",
    ),
    "SEG-U008": Fault(
        "The output folder exists already",
        "The command writes a new folder and never over an older result.",
        "Name another folder with `--out`, or move the old one away.",
    ),
    "SEG-U009": Fault(
        "A command needs an optional package",
        "Packages that only one command needs are left out of the plain installation.",
        "Install the extra that the message names, such as `pip install 'fullyconv[quickstart]'`.",
    ),
    # V: serving
    "SEG-V001": Fault(
        "Nobody can listen there",
        "Another program listens at the port already, perhaps a server that was started before, or the address is not "
        "this machine's, or the port is one that takes special rights.",
        "Choose another --port, or `--port 0` for one that is free; `--host 127.0.0.1` is this machine.",
    ),
    "SEG-V002": Fault(
        "The model cannot be served",
        "A request holds one picture, and the network reads several of each scene, such as colour and depth.",
        "Predict files: `fullyconv predict MODEL IMAGES --more 'depth/{name}.png' --out DIR`.",
    ),
    "SEG-V003": Fault(
        "The request cannot be answered",
        "A request is the bytes of one image file, no form and no text, of no more bytes and pixels than fit into "
        "memory comfortably, and `?output=` takes mask, overlay or json.",
        "`curl --data-binary @photo.jpg ADDRESS/predict -o mask.png`; larger images: `fullyconv predict`.",
    ),
    "SEG-V004": Fault(
        "The server was stopped",
        "Who stops the server leaves it a few seconds for what it was asked; this was not answered by then.",
        "Start `fullyconv serve` again, and ask again.",
    ),
    # X: export
    "SEG-X001": Fault(
        "There is no such precision",
        "Not every runtime can compute in every precision: ONNX Runtime has no bf16 convolutions on the CPU, and "
        "PyTorch no int8 of its own. Nor does every processor compute in bf16.",
        "Take the format, the runtime or the precision that the message names.",
    ),
    "SEG-X002": Fault(
        "int8 and images to calibrate it on go together",
        "The ranges that 8 bits stand for are measured on images; other precisions have no use for them. What a model "
        "folder keeps in int8 is of the weights that it was measured with.",
        "Give `--precision int8` and `--calibrate` with data or a folder of images like those to come. After the first "
        "time, `predict` and `evaluate` find the network in int8 in the model folder.",
    ),
    "SEG-X003": Fault(
        "The network cannot be exported",
        "A file holds one graph for images of every size. This network decides by the size what it computes, or its "
        "graph gives another result than the network at a size that it was tried at; no file is left then.",
        "Train a network over another trunk, such as fcn8s-resnet18 or fcn8s-mobilenetv3_small_100.",
    ),
    "SEG-X004": Fault(
        "The file's ending is not the format's",
        "Runtimes know their files by their endings: .onnx, .xml of OpenVINO, .pt2 of torch.export.",
        "Give --out the ending that the message names, or another --format.",
    ),
    "SEG-X005": Fault(
        "An option of the measurement, and nothing to measure on",
        "--split and --budget say on what part of the data, and how strictly, --verify measures a file.",
        "Give `--verify DATA`, or leave the option out.",
    ),
}
