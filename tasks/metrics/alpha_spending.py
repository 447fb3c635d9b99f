"""How sure a repeated test must be: the k-th gets alpha * 6 / (pi * k)^2.

Who tests until a difference is significant finds one, whether there is any. The shares of all tests, however many, add
up to alpha (1 + 1/4 + 1/9 + ... = pi^2 / 6), so by Bonferroni's inequality the chance that any of them is a false alarm
stays at most alpha. Spending a fixed alpha over tests to come is Lan & DeMets 1983 ("Discrete Sequential Boundaries for
Clinical Trials"); this sequence needs no number of tests in advance.
"""

import math

from tasks.metrics.comparison import SHUFFLES, SIGNIFICANT

SHUFFLES_PER_ALPHA = 20
"""How many shuffles of chance are to be as extreme as alpha: fewer tell a p-value near it too coarsely."""
MOST_SHUFFLES = 200_000


def alpha_of_test(number: int) -> float:
    """Return the p-value below which the test of this number, from 1, is significant; 0.0304 for the first."""
    return SIGNIFICANT * 6 / (math.pi * number) ** 2


def shuffles_for(alpha: float) -> int:
    """Return how many shuffles a p-value that is compared with `alpha` takes; a few seconds' worth at most."""
    return min(max(SHUFFLES, math.ceil(SHUFFLES_PER_ALPHA / alpha)), MOST_SHUFFLES)
