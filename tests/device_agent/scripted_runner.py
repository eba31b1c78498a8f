"""A runner whose clock is a script: SCRIPT JOB.

SCRIPT is a Python expression of ``round`` and ``model`` that gives the wall time in ns, or one of
the ways to go wrong: ``crash``, ``hang``, ``babble``, ``swap``.
"""

import json
import os
import sys
import time

script, path = sys.argv[1:]
with open(path) as file:  # noqa: PTH123 - this runs by itself and stays free of our packages
    job = json.load(file)


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


say(event="hello", runtime="onnxruntime", version="1", threads=job["threads"], pid=os.getpid())
for entry in job["models"]:
    say(event="loaded", model=entry["id"], load_ms=1.0, warmup_ms=0.5)
for number, order in enumerate(job["rounds"], start=job["first_round"]):
    if script == "swap":
        order.reverse()
    for model in order:
        if number == 1 and script == "crash":
            print("something broke", file=sys.stderr)
            os.abort()
        if number == 1 and script == "hang":
            time.sleep(60)
        if number == 1 and script == "babble":
            print("warming up...", flush=True)
        ways = ("crash", "hang", "babble", "swap")
        ns = 100_000 if script in ways else eval(script, {"round": number, "model": model})
        times = [ns] * job["repeats"]
        say(event="sample", round=number, model=model, wall_ns=times, thread_ns=times)
say(event="bye", peak_rss_bytes=1)
