"""Lines about many numbers stay short."""

from world_env.results.formatting import error_per_dimension


def test_the_errors_of_few_dimensions_are_listed_and_of_many_summarised() -> None:
    assert error_per_dimension([0.12345, 2.0]) == "one-step error per dimension: 0.123, 2"
    many = [0.001] * 1000
    many[7] = 0.5
    assert error_per_dimension(many) == (
        "one-step error per dimension: median 0.001, largest 0.5 (dimension 7 of 1,000)"
    )
