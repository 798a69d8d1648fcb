"""The claims of Hinton, Vinyals and Dean (2015): soft targets, ensembles and specialists.

The only figures written here are the paper's own.
"""

from collections.abc import Callable
from functools import partial

from distillation import high_are_alike, low_is_best
from result_files import DATA, best, best_soft, better, network

from boxwood._internal.report.claims import Claim, Fault, NotRun, Report
from boxwood._internal.report.contrasts import BySeed
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import SMALLEST_GAIN, compared, exceeds
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]

GREY_FRAME = Fault(
    reason="shifted images had a grey frame that no test image has, and the teacher was trained briefly",
    commits=("6ecd18d", "c36e587"),
)
TOO_SHORT = Fault(
    reason="members and students were trained too briefly for soft targets to pay, or tested on 360 images",
    commits=("06ca94e", "d140156"),
)


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    found = [
        _claim(
            "paper_mnist_mnist",
            "paper_mnist mnist --set epochs=60",
            "soft targets of a large regularised teacher beat labels, 800-800, MNIST",
            "74 errors against 146; teacher 67",
            _soft_beats_labels,
            "60 epochs",
            GREY_FRAME,
        ),
        _claim(
            "temperature_by_width_mnist",
            "temperature_by_width mnist",
            "with 30 units a layer a temperature of 2.5 or 4 is better than 1, 8 and 20, MNIST",
            "2.5 to 4 are best",
            lambda r: low_is_best(partial(network, r)),
            "20,000 examples, teacher 500-500, 12 epochs",
        ),
        _claim(
            "temperature_by_width_mnist",
            "temperature_by_width mnist",
            "with 300 units a layer temperatures of 8 and 20 are within 0.3 points, MNIST",
            "all above 8 are fairly similar",
            lambda r: high_are_alike(partial(network, r)),
            "20,000 examples, teacher 500-500, 12 epochs",
        ),
    ]
    for of in ("mnist", "fashion_mnist"):
        command = of.replace("_", "-")
        layers = f"10,000 steps at most, {DATA[of]}"
        found += [
            _claim(
                f"few_labels_{of}",
                f"few_labels {command}",
                f"with 3 % of the labels, soft targets of a teacher trained on all labels beat labels, {DATA[of]}",
                "57.0 against 44.5 % of frames (speech)",
                _soft_beats_labels,
                f"images instead of speech, 20,000 examples in all, {DATA[of]}",
            ),
            _claim(
                f"missing_class_{of}",
                f"missing_class {command}",
                f"a class that was never shown is recognised after its bias is set, {DATA[of]}",
                "98.6 % of threes",
                _missing_class_recall,
                f"bias chosen on validation, recall above a half asked for, {DATA[of]}",
            ),
            _claim(
                f"missing_class_{of}",
                f"missing_class {command}",
                f"a class that was never shown: soft beats labels given the same search, {DATA[of]}",
                "109 errors, 206 before the bias",
                lambda r: _soft_after(r),
                layers,
            ),
            _claim(
                f"two_classes_{of}",
                f"two_classes {command}",
                f"two classes shown of ten: soft beats labels given the same search, {DATA[of]}",
                "13.2 % error after both biases, 47.3 before",
                lambda r: _soft_after(r),
                layers,
            ),
        ]
    found += [
        _claim(
            f"ensemble_{of}",
            f"ensemble {command}",
            f"one network recovers at least half of an ensemble's gain, {words}",
            "60.8 of 58.9 → 61.1 %",
            _half_of_the_gain,
            scaled,
            TOO_SHORT,
        )
        for of, command, words, scaled in (
            ("digits", "digits", "digits", "1,000 digits"),
            ("fashion_mnist", "fashion-mnist --set count=10000", DATA["fashion_mnist"], "10,000 images"),
            ("mnist", "mnist --set count=5000", DATA["mnist"], "5,000 images"),
        )
    ]  # fmt: skip
    found += [
        _claim(
            "acoustic",
            "acoustic",
            "one network recovers at least half of an ensemble's gain, frames of speech",
            "60.8 of 58.9 → 61.1 %",
            _half_of_the_gain,
            "4 layers of 192, espeak's speech, 10 epochs",
            TOO_SHORT,
        ),
        _claim(
            "speech_labels",
            "speech_labels",
            "with 3 % of the frames, soft targets of a teacher trained on all labels beat labels, frames of speech",
            "57.0 against 44.5 % of frames",
            _soft_beats_labels,
            "4 layers of 192, espeak's speech, 10 epochs",
        ),
        _claim(
            "speech_labels",
            "speech_labels",
            "soft targets for 3 % of the frames go three quarters of the way to labels for all, frames of speech",
            "57.0 of 44.5 → 58.9 %: 87 % of the way",
            _three_quarters,
            "4 layers of 192, espeak's speech, 10 epochs",
        ),
    ]
    specialists = (
        ("fashion_mnist", "specialists fashion-mnist", "given", "given groups, Fashion-MNIST"),
        ("fashion_mnist", "specialists fashion-mnist", "found", "found clusters, Fashion-MNIST"),
        ("letters", "letters", "found", "found clusters, accented letters"),
    )
    for of, command, branch, words in specialists:
        file = "letters" if of == "letters" else f"specialists_{of}"
        found += [
            _claim(
                file,
                command,
                f"specialists gain on the classes that they cover, {words}",
                "4.4 % relative, 25.0 → 26.1 %",
                partial(_covered, branch=branch),
                "2 to 20 groups instead of 61",
                GREY_FRAME if of == "letters" else None,
            ),
            _claim(
                file,
                command,
                f"specialists beat training the generalist for longer, {words}",
                "our control",
                lambda r, branch=branch: better(r, "", _together(branch), "longer"),
                "2 to 20 groups instead of 61",
                GREY_FRAME if of == "letters" else None,
            ),
        ]
    return found


def _claim(
    study: str,
    command: str,
    statement: str,
    figure: str,
    judge: Judge,
    scaled: str,
    fault: Fault | None = None,
) -> Claim:
    return Claim(
        paper="Hinton et al. 2015",
        statement=statement,
        figure=figure,
        scaled=scaled,
        file=f"distillation_{study}",
        command=f"python experiments/run_distillation.py {command}" if command else "",
        judge=judge,
        fault=fault,
    )


def _stopped(report: Report, name: str) -> BySeed:
    """The runs of one network, where their validation loss was lowest if validation prefers that."""
    rows = network(report, name).items()
    return {seed: {**row, **row.get("early_stop", {})} for seed, row in rows}


def _soft_beats_labels(report: Report) -> Finding:
    terms = [(1.0, network(report, best_soft(report))), (-1.0, _stopped(report, "hard"))]
    return compared("", terms, smallest_gain=SMALLEST_GAIN)


def _three_quarters(report: Report) -> Finding:
    soft, hard = network(report, best_soft(report)), _stopped(report, "hard")
    return compared(
        "", [(1.0, soft), (-0.25, hard), (-0.75, network(report, "all"))],
        unit="points beyond three quarters of the way",
    )  # fmt: skip


def _soft_after(report: Report) -> Finding:
    return better(report, "", best_soft(report, " after"), "hard after")


def _missing_class_recall(report: Report) -> Finding:
    rows = network(report, best_soft(report, " after"))
    counts = [rows[seed]["test_by_class"][8] for seed in sorted(rows)]
    recall = over_seeds([100 * each["correct"] / each["total"] for each in counts])
    return exceeds("", recall, 50.0, unit="% recall", digits=1)


def _half_of_the_gain(report: Report) -> Finding:
    soft, single = network(report, best_soft(report)), _stopped(report, best(report, "single"))
    return compared(
        "", [(1.0, soft), (-0.5, single), (-0.5, network(report, "ensemble"))],
        unit="points beyond half of the gain",
    )  # fmt: skip


def _together(branch: str) -> str:
    return f"{branch} together"


def _covered(report: Report, *, branch: str) -> Finding:
    gains = []
    for row in network(report, _together(branch)).values():
        parts = [part for part in row.get("covered", ()) if part["specialists"]]
        if not parts:
            raise NotRun("no counts of covered examples yet")
        more, total = (sum(part[key] for part in parts) for key in ("joint", "total"))
        gains.append(100 * (more - sum(part["generalist"] for part in parts)) / total)
    return exceeds(
        "", over_seeds(gains), smallest_gain=SMALLEST_GAIN, unit="points on covered images"
    )
