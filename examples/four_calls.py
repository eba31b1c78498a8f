"""The four calls of `nas`, made small enough for two cores and a minute.

    python examples/four_calls.py

docs/nas.md has what each argument means; without `images` and `space`, and with more epochs, the
same calls are searches in earnest.
"""

from nas import ArchitectureEvaluator, DARTSSearcher, PNASSearcher, ProxylessNASSearcher

SMALL = {"channels": 4, "layers": 3}

searcher = DARTSSearcher(
    dataset="fashion-mnist-mini",
    search_space="darts_space",
    epochs=1,
    batch_size=64,
    images=128,
    space=SMALL,
)
best_arch = searcher.search()
print("DARTS found", best_arch)
trained = searcher.train_final_architecture(architecture=best_arch, epochs=1)
print("Trained for an epoch:", trained)

best_cell = PNASSearcher(
    search_space="pnas_space",
    predictor_epochs=150,
    search_epochs=1,
    trials=8,
    images=128,
    space={**SMALL, "blocks": 2},
).progressive_search()
print("PNAS found", best_cell)

best_mobile = ProxylessNASSearcher(
    target_platform="mobile",
    latency_constraint=100,
    accuracy_weight=0.7,
    latency_weight=0.3,
    epochs=1,
    images=64,
).search()
print("ProxylessNAS found", best_mobile)

values = ArchitectureEvaluator().evaluate_architecture(
    architecture=best_arch,
    dataset="fashion-mnist-mini",
    metrics=["accuracy", "latency", "flops", "params"],
)
print("Evaluated:", values)
