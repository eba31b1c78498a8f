"""Runners: how one runtime is started on a device.

A runner is a process of its own. It is started with the path of a *job*, a JSON file, and prints
JSON lines, each flushed as soon as it is known; samples may wait 20 ms for one another, and none
longer than its round::

    {"event": "hello", "runtime": "litert", "version": "2.3.0", "threads": 1, "pid": 4711}
    {"event": "loaded", "model": "op12", "load_ms": 3.1, "warmup_ms": 0.5}
    {"event": "sample", "round": 0, "model": "op12", "wall_ns": [51230], "thread_ns": [51100]}
    {"event": "outputs", "model": "net", "paths": ["/.../y0.npy"]}
    {"event": "error", "model": "op12", "message": "..."}
    {"event": "bye", "peak_rss_bytes": 123456}

and a job is::

    {"threads": 1,
     "models": [{"id": "op12", "path": "/.../op12.tflite"}],
     "warmups": 10,                       # runs of each model before the first round
     "rounds": [["op12", "net", ...]],    # the order of each round; may name a model more than once
     "repeats": 1, "discard": 1,          # timed runs of each visit, untimed ones just before them
     "first_round": 0,                    # the number of the first of these rounds
     "outputs": [{"id": "net", "inputs": ["/.../x0.npy"], "outputs": "/.../y"}]}

With ``--version`` in place of a job it says hello, with its runtime and version, and ends. stdout
carries these lines and nothing else; what a runtime prints by itself goes to stderr. A model that
does not load or run is named by one "error" and left out from then on. With more threads than one
``thread_ns`` is null: the calling thread's time would leave out the others' work.

`rounds` and `outputs` may each be empty. A runner makes the inputs of timed runs itself, from the
model's own shapes and types (zeros are avoided: some kernels are faster on them). For `outputs`,
inputs are numpy's .npy files of float32 in C order, one for each input of the model, with a leading
batch dimension, in the layout that the model's file has; a model with quantised inputs gets them
quantised by its own scale and zero point. Images go through one by one. Each output comes back as
float32, dequantised, in a file whose name is ``outputs`` with the output's number and ``.npy``.

The protocol is spoken by the native runners (`native`, C++), which are what measures, and by
``python_*``, the runtimes' own Python packages, which the native ones are held against.
"""
