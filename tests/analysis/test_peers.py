"""The recorded table of peers: counts are those of the formulas on SmolLM2's shapes, ranks those of the theory."""

from pathlib import Path

import pandas as pd

SHAPES = 30 * [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]  # (out, in)


def test_the_recorded_table_follows_the_formulas():
    path = Path(__file__).resolve().parents[2] / "data" / "theory" / "peers.csv"
    table = pd.read_csv(path, dtype=str)
    out, both, modules = sum(shape[0] for shape in SHAPES), sum(map(sum, SHAPES)), len(SHAPES)
    expected = {
        "LoRA": [(both, "1", "20")],
        "PiSSA": [(both, "2", "40")],
        "AdaLoRA": [(both + modules, "1", "20")],
        "DoRA": [(both + out, "192-576", "192-576")],
        "VeRA": [(out + modules, "1", "1")],
        "LoRA-XS": [(modules, "1", "1"), (4 * modules, "2", "2")],
        "TinyLoRA": [(1, "2", "2-3"), (12, "2", "2")],  # PEFT's, whose SVD is taken anew, and one block each time
        "BoostLoRA": [(12, "2", "40")],
    }
    columns = ["numbers", "rank", "rank, 20 rounds"]
    found = {name: list(rows[columns].itertuples(index=False, name=None)) for name, rows in table.groupby("method")}
    assert found == {name: [(str(n), *ranks) for n, *ranks in rows] for name, rows in expected.items()}
    assert (table["numbers, 20 rounds"].astype(int) == 20 * table["numbers"].astype(int)).all()
    assert table[["device", "date", "torch"]].notna().all(axis=None)
