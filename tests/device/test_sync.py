import pytest, torch
from collections import Counter
from conftest import STILL
from test_runs import RUNS
from pretend_device import synchronisations
from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer
pytestmark = pytest.mark.device

@pytest.mark.parametrize("name", [n for n in RUNS if RUNS[n][0]!="Pop"])
def test_sync(name, quick, on_device, llm_folders):
    model, changes = RUNS[name]
    settings = {**changes}
    if changes.get("llm_init") == "pretrained":
        settings["llm"] = str(llm_folders["writer"])
    settings = quick(**settings, train_batch_size=8)
    with on_device():
        config = LiteConfig(model, "tiny", config_dict=settings)
        loaders = data_preparation(config, create_dataset(config))
        model = config.model_class(config, loaders[0]._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        seen = []
        with synchronisations() as counter:
            trainer.optimizer.register_step_post_hook(lambda *_: seen.append(Counter(counter)))
            trainer.fit(loaders[0], None, saved=False)
        n = len(loaders[0])
        between = seen[n-1] - seen[0] if len(seen)>=n else seen[-1]-seen[0]
    print("SYNC", name, n, len(seen))
    for k, v in sorted(between.items()): print("SYNC    ", k, v)
