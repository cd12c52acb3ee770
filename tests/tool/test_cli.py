"""What several processes of one run say once."""

import torch.distributed as dist

from tool.cli import said_by_another


def test_processes_of_torchrun_say_an_error_once(monkeypatch):
    assert not said_by_another("x.py: error: no such list") and not said_by_another("x.py: error: no such list")
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    launched = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    for name, value in (launched | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}).items():
        monkeypatch.setenv(name, value)
    assert [said_by_another(f"x.py: error: {text}") for text in ("one", "one", "other", "one")] == [False, True] * 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not said_by_another("x.py: error: one")
