"""How often the 95 % intervals of latency cover the truth, by simulation: log-normal times with drift, spikes and
effects of whole rounds, by the rounds taken, and where measuring stops once it is precise.

python tests/bench/simulate_coverage.py [TRIALS]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from qpipe.compare import round_statistics
from qpipe.types import Array

VALUES = 50  # a round
PRECISION = 0.01


@dataclass(frozen=True)
class Machine:
    """How times spread on it, all as parts of the median."""

    name: str
    noise: float  # from value to value
    between: float  # from round to round
    drift: float = 0.0  # from the first round to the last
    spikes: float = 0.0  # this part of the values takes 10 to 60 % longer

    def session(
        self, random: np.random.Generator, count: int, sessions: int = 1, values: int = VALUES
    ) -> Array:
        """Times of [sessions, count rounds, values]."""
        time = np.linspace(-0.5, 0.5, count)[None, :, None]
        between = self.between * random.standard_normal((sessions, count, 1))
        noise = self.noise * random.standard_normal((sessions, count, values))
        spiked = random.random(noise.shape) < self.spikes
        taken: Array = np.exp(self.drift * time + between + noise)
        return np.where(spiked, taken * random.uniform(1.1, 1.6, noise.shape), taken)

    def truth(self, random: np.random.Generator, count: int) -> dict[float, float]:
        """Median, p90 and p99 of endless such sessions."""
        values = self.session(random, count, 2_000_000 // (count * VALUES))
        return {share: float(np.quantile(values, share)) for share in (0.5, 0.9, 0.99)}


MACHINES = (
    Machine("noise alone", 0.02, 0.0),
    Machine("all of it", 0.02, 0.01, 0.02, 0.015),
    Machine("rounds differ as values do", 0.02, 0.02, 0.0, 0.015),
    Machine("rounds differ more than values, strong drift", 0.005, 0.02, 0.03, 0.03),
    Machine("many spikes", 0.05, 0.005, 0.01, 0.05),
)


def coverage(machine: Machine, count: int, trials: int, seed: int = 0) -> dict[float, float]:
    """The part of so many sessions in which each interval has the truth; p99 where there are values enough."""
    random = np.random.default_rng(seed)
    truth = machine.truth(random, count)
    covered = dict.fromkeys(truth, 0)
    for session in machine.session(random, count, trials):
        for share, true in truth.items():
            found = (
                round_statistics.median(session)[1]
                if share == 0.5
                else round_statistics.percentile(session, share)[1]
            )
            covered[share] += bool(found and found[0] <= true <= found[1])
    enough = count * VALUES >= round_statistics.ENOUGH_FOR_P99
    return {share: number / trials for share, number in covered.items() if share < 0.99 or enough}


def stopping(machine: Machine, most: int, trials: int, seed: int = 0) -> tuple[float, float]:
    """The part of sessions in which the median's interval covers where they end once it is precise, and how many rounds
    they take on the average. Drift is by the round: who stops earlier has seen less of it."""
    random = np.random.default_rng(seed)
    flat = Machine(machine.name, machine.noise, machine.between, 0.0, machine.spikes)
    middle = flat.truth(random, 2)[0.5]
    covered, taken = 0, 0
    for session in machine.session(random, most, trials):
        for count in [*round_statistics.check_points(most - 1), most]:
            value, found = round_statistics.median(session[:count], round_statistics.WHEN_STOPPING)
            if found and (found[1] - found[0]) / 2 <= PRECISION * value:
                break
        true = middle * float(np.exp(machine.drift * ((count - 1) / 2 / (most - 1) - 0.5)))
        covered += bool(found and found[0] <= true <= found[1])
        taken += count
    return covered / trials, taken / trials


def main() -> None:
    """Print both tables."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print("| times | rounds | median | p90 | p99 |\n|---|---|---|---|---|")
    for machine in MACHINES:
        for count in (6, 10, 16, 40):
            found = coverage(machine, count, trials)
            cells = [f"{found[share]:.3f}" if share in found else "" for share in (0.5, 0.9, 0.99)]
            print(f"| {machine.name} | {count} | {' | '.join(cells)} |", flush=True)
    print("\n| rounds differ by | rounds at most | median | rounds taken |\n|---|---|---|---|")
    for between in (0.002, 0.006, 0.008, 0.010, 0.012, 0.015, 0.02, 0.03):
        machine = Machine("", 0.02, between, 0.01, 0.015)
        for most in (16, 42):
            share, taken = stopping(machine, most, trials)
            print(f"| {between:.1%} | {most} | {share:.3f} | {taken:.1f} |", flush=True)


if __name__ == "__main__":
    main()
