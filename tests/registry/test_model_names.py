"""Registered models: one for each base, and the names of an older version go on."""

from itertools import combinations

from registry.model_names import name_of_base, registered_name
from registry.tables import Model

BASES = [
    "tiny/base",
    "other/base",
    "Other/base",
    "other/Base",
    "base",
    "tiny--base",
    "tiny-/base",
    "tiny/-base",
    "tiny-/-base",
    "tiny---base",
    "tiny.base",
    "tiny_base",
    "tiny/base.0123456789ab",
    "tiny model",
    "tiny?model",
    "a/b/c",
    "a--b/c",
]


def add(session, base_model, registered_model, job_id):
    session.add(
        Model(
            name="m",
            base_model=base_model,
            status="AVAILABLE",
            parameters={"registered_model": registered_model},
            training_job_id=job_id,
        )
    )
    session.flush()


def test_a_name_says_which_base_it_is():
    assert registered_name("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB--SmolLM2-135M-Instruct"
    assert registered_name("tiny-llama") == "tiny-llama"


def test_no_two_bases_have_one_name():
    for first, second in combinations([*BASES, registered_name("tiny--base"), registered_name("tiny-/base")], 2):
        assert registered_name(first) != registered_name(second), (first, second)


def test_a_base_keeps_its_name_of_an_older_version_and_shares_it_with_no_other(database):
    with database.transaction() as session:
        assert name_of_base(session, "tiny/Base") == "tiny--Base"
        add(session, "tiny/Base", "base", 101)
        add(session, "other/Base", "base", 102)
        assert name_of_base(session, "tiny/Base") == "base"
        assert name_of_base(session, "other/Base") == "other--Base"
        add(session, "other/Base", "other--Base", 103)
        assert name_of_base(session, "other/Base") == "other--Base"
