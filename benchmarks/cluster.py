"""A load of conversations over 1 to 1,000 replicas, simulated from what a step costs, with the routing of the server.

    python benchmarks/cluster.py                                # a table for each number of replicas
    python benchmarks/cluster.py --costs gpu --users 200        # other costs, more conversations at once for a replica
    python benchmarks/cluster.py --routing least-busy           # what routing by load alone would give
    python benchmarks/cluster.py --real --users 30              # two real replicas on Ray Serve beside their simulation

Conversations come at random (`--bursty`: in waves, five times as many in a tenth of the time), begin with one of a few
system prompts, have several turns with time to think between them, and prompts and answers of chat-like lengths. A step
of a replica costs `step` and something for every token of a prompt and every answer, see `COSTS`; it batches as the
engine does, and its cache is as large as its memory. Times are from the request to its first token (TTFT) and between
the tokens of an answer (TBT). With `--real` the networks are stubs that sleep as long as a step costs; everything else
is real, and so is the time. What passing on costs there - a request's way, a step, an answer in it - is measured before
the load comes, and the simulation reckons with that.

A machine is what holds one replica: `tokens per machine-hour` is of one whose replica is as busy as these.
"""

import argparse

from common import hardware
from simulation import COSTS, simulated

REPLICAS = (1, 2, 4, 10, 32, 100, 320, 1000)
UNITS = {
    "TBT p50": ("ms", 1e3),
    "TBT p99": ("ms", 1e3),
    "cache hits": ("%", 100.0),
    "tokens per machine-hour": ("M", 1e-6),
}


def told(name: str, value: float) -> str:
    if name.startswith("TTFT"):
        return f"{value:.2f} s"
    unit, scale = UNITS.get(name, ("", 1.0))
    return f"{value * scale:,.{2 if unit == 'M' else 0}f}{unit and ' ' + unit}"


def print_table(head: str, rows: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(rows.values())))
    print(f"| {head} | " + " | ".join(names) + " |\n|" + "---|" * (1 + len(names)))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(told(key, value) for key, value in row.items()) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", choices=COSTS, default="gpu")
    parser.add_argument("--users", type=float, default=40, help="conversations at once for a replica (default: 40)")
    parser.add_argument("--seconds", type=float, default=60, help="that are measured (default: 60)")
    parser.add_argument("--systems", type=int, default=8, help="different system prompts (default: 8)")
    parser.add_argument("--replicas", help="numbers of replicas, with commas (default: 1 to 1,000)")
    parser.add_argument("--routing", choices=("prefix", "least-busy", "random"), default="prefix")
    parser.add_argument("--bursty", action="store_true")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.real:
        from replicas import real

        options.costs = "stub"
        print(hardware())
        costs, seen = real(options)
        print(
            f"measured: {1e3 * costs.request:.1f} ms on the way of a request, {1e3 * costs.step:.1f} ms a step of "
            f"{1e3 * COSTS['stub'].step:.0f}, {1e3 * costs.answer:.2f} ms for each further answer in it"
        )
        rows = {"simulated": simulated(options, 2, costs), "real": seen}
        print_table("two replicas", rows)
        off = {name: rows["simulated"][name] / (rows["real"][name] or 1) - 1 for name in rows["real"]}
        print("simulated against real: " + ", ".join(f"{name} {100 * value:+.0f} %" for name, value in off.items()))
        return
    counts = [int(text) for text in options.replicas.split(",")] if options.replicas else REPLICAS
    print_table("replicas", {str(count): simulated(options, count) for count in counts})


if __name__ == "__main__":
    main()
