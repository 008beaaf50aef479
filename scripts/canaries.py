"""Exposure of canaries: made-up records that `ehr-data tokenize --canaries` put into the train split, each ranked by its
loss among made-up records of the same kind that were never put anywhere (Carlini et al. 2019,
https://arxiv.org/abs/1802.08232).

Exposure is log2 of how many candidates there are, less log2 of the canary's rank among them: a canary that was not
remembered has any rank with the same chance, 1.44 bits on average; one that is always first has log2(1001) = 9.97 bits.
Beyond the number of candidates it is read off a normal distribution fitted to their losses."""

import math

import numpy as np
from scipy import stats

import metrics


def exposures(inserted, references):
    """Bits, of each inserted canary; ties count half."""
    below = (references[None] < inserted[:, None]).sum(1) + 0.5 * (references[None] == inserted[:, None]).sum(1)
    return math.log2(references.size + 1) - np.log2(1 + below)


def by_chance(n_references):
    """Mean exposure of a canary that has every rank with the same chance."""
    return math.log2(n_references + 1) - float(np.log2(np.arange(1, n_references + 2)).mean())


def extrapolated(inserted, references):
    z = (inserted - references.mean()) / references.std(ddof=1)
    return -stats.norm.logcdf(z) / math.log(2)


def summarise(inserted, references, n_bootstrap, seed):
    bits, more = exposures(inserted, references), extrapolated(inserted, references)
    rng = np.random.default_rng(seed)
    at = rng.integers(0, bits.size, (n_bootstrap, bits.size))
    y = np.r_[np.ones(inserted.size), np.zeros(references.size)]
    draws = metrics.draw(
        lambda W: {"auc": metrics.weighted_auroc(-np.r_[inserted, references], y, W)}, np.arange(y.size), n_bootstrap, seed
    )
    return {
        "inserted": int(inserted.size), "references": int(references.size),
        "exposure": float(bits.mean()), "interval": metrics.interval(bits[at].mean(1)), "by_chance": by_chance(references.size),
        "most": float(bits.max()), "extrapolated": float(more.mean()),
        "first": int((inserted < references.min()).sum()),
        "auc": metrics.auroc(-np.r_[inserted, references], y), "auc_interval": metrics.interval(draws["auc"]),
        "p": float(stats.mannwhitneyu(inserted, references, alternative="less").pvalue),
    }  # fmt: skip


def measure(loss, n_inserted, n_bootstrap, seed):
    """loss: {key: sum over the record's tokens}; keys below n_inserted were inserted."""
    inserted = np.array([x for k, x in loss.items() if k < n_inserted])
    references = np.array([x for k, x in loss.items() if k >= n_inserted])
    return summarise(inserted, references, n_bootstrap, seed)
