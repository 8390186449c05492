"""What was wanted of the study, and whether it holds: computed from the results."""

from __future__ import annotations

from lab.two_maps import plan
from lab.two_maps.figures import Records, Sample, over_seeds
from lab.two_maps.resample import Estimate
from lab.two_maps.tables import interval, markdown, setting_title, share_of_time
from lab.two_maps.trained import SEEDS

SHARE, TIME = 85.0, 25.0  # percent that were wanted
SETTINGS = ("val-1", "test-1")


def verdicts(labels: Records, costs: Records | None, trained: Records | None) -> str:
    """A table: what was wanted, on what, what was found, whether it holds."""
    lines = []
    for setting in SETTINGS:
        s = Sample(labels, setting)
        if not s.size("window-8", "all", "k0"):
            continue
        share, where = s.share("window-8"), setting_title(setting)
        wanted = f"≥ {SHARE:.0f} % of the gain of all fine"
        lines.append([wanted, where, f"{interval(share, digits=0)} %", _share(share)])
        for base, title in (("k0", "k = 0"), ("random-window-0", "random for each block"), ("nearest", "nearest")):
            gain = s.gain("window-8", base)
            lines.append([f"gain over {title}", where, interval(gain, sign=True), _gain(gain)])
    for network, channels in ((plan.DEFAULT, 176), ("xfeat", 64)):
        times = {} if costs is None else costs.get(f"time {network}", {})
        if times:
            spent = share_of_time(times, "window-8")
            wanted = f"≤ {TIME:.0f} % of the time of all fine, the faster way"
            lines.append([wanted, f"{channels} channels", f"{spent:.0f} %", _spent(spent)])
    for setting in SETTINGS if trained is not None else ():
        assert trained is not None  # tells the type checker
        samples = [Sample(trained, setting, prefix=f"k=0/{seed}") for seed in SEEDS]
        samples = [s for s in samples if s.records]
        if samples:
            gain = over_seeds(samples, "window-8", "k0")
            title = "trained with k = 0, then switched on"
            where = f"{setting_title(setting)}, {len(samples)} seeds"
            lines.append([title, where, interval(gain, sign=True), _gain(gain)])
    return markdown(["wanted of window k = 8", "on", "found", "holds"], lines)


def summary(labels: Records, costs: Records | None) -> str:
    """The conclusion, in two sentences."""
    samples = {setting_title(setting): Sample(labels, setting) for setting in SETTINGS}
    samples = {title: s for title, s in samples.items() if s.size("window-8", "all", "k0")}
    gains = " and ".join(f"{s.gain('window-8', 'k0').value:+.1f} points of mIoU ({t})" for t, s in samples.items())
    shares = " and ".join(f"{s.share('window-8').value:.0f} %" for s in samples.values())
    found = f"**Between two maps of different places fine attention pays.** k = 8 brings {gains} over coarse attention"
    found += f" alone, {shares} of what all fine positions bring"
    times = None if costs is None else costs.get(f"time {plan.DEFAULT}")
    if times is not None:
        found += f", in {share_of_time(times, 'window-8'):.0f} % of their time"
    return (
        found + ". Each block of queries must choose its own tokens: one set for the whole image, as in the paper, "
        "brings nothing, and random tokens next to nothing."
    )


def _share(share: Estimate) -> str:
    if share.value < SHARE:
        return f"no, by {SHARE - share.value:.1f}"
    return "yes" if share.low >= SHARE else "yes; the interval goes below"


def _spent(spent: float) -> str:
    return "yes" if spent <= TIME else f"no, by {spent - TIME:.1f}"


def _gain(gain: Estimate) -> str:
    if gain.significant and gain.value > 0:
        return "yes"
    return "no: not significant" if not gain.significant else "no: it is a loss"
