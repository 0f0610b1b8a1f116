from dataclasses import replace

from federation.engines.simulated_hospitals import Hospitals, SimulatedHospitals


def test_who_takes_part_is_who_has_joined_in_the_order_of_the_twins(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    hospitals = replace(tiny_hospitals, joins={"south": 4, "north": 0, "east": 2, "west": 0})
    assert [hospitals.present(number) for number in (-1, 0, 1, 2, 3, 4, 99)] == [
        (),
        ("north", "west"),
        ("north", "west"),
        ("north", "east", "west"),
        ("north", "east", "west"),
        ("south", "north", "east", "west"),
        ("south", "north", "east", "west"),
    ]
    assert hospitals.present(4) is hospitals.present(99)  # nothing is made in a round


def test_a_ward_serves_an_engine(tiny_hospitals: SimulatedHospitals) -> None:
    assert isinstance(tiny_hospitals, Hospitals)
    assert tiny_hospitals.twin("north", None).twin_id == "north"
