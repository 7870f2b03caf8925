"""Exporting leaves the system of whoever calls it as and where it is."""

import torch

from humanquery.export import write


def test_the_callers_system_stays_where_and_as_it_is(tiny, tmp_path, monkeypatch):
    """What a trace would do to the module that it is given, or a move to the CPU, is seen as a
    change of dtype here."""
    traced = []

    def trace(system):
        traced.append(system)
        assert not system.training and next(system.parameters()).device.type == "cpu"
        return system.double()

    monkeypatch.setattr(write, "trace", trace)
    monkeypatch.setitem(write._WRITERS, "torch", lambda program, out, facts: out.write_bytes(b"x"))
    system, places = tiny.system, {n: p.data_ptr() for n, p in tiny.system.named_parameters()}
    batches, mode = tiny.batches, system.training
    system.train()
    try:
        written = write.export(
            tiny,
            tmp_path / "m",
            format="torch",
            verify=False,
            max_persons=system.config.num_queries,
        )
        assert written.read_bytes() == b"x"
        assert tiny.system is system and system.training and tiny.batches == batches
    finally:
        system.train(mode)
    (copied,) = traced
    assert copied is not system and copied.config.num_persons == system.config.num_queries
    assert system.config.num_persons < system.config.num_queries
    assert {n: p.data_ptr() for n, p in system.named_parameters()} == places
    assert all(p.dtype == torch.float32 for p in system.parameters())
