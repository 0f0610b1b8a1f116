from federation.console.demo.demo_accounts import add_people, password_lines
from tests.federation.console.example_console import World


def test_accounts_are_made_once_with_different_passwords(world: World) -> None:
    made = add_people(world.services)
    assert [each.user for each in made] == [
        "clinician.north",
        "approver.north",
        "clinician.south",
        "approver.south",
        "operator",
        "auditor",
    ]
    assert len({each.password for each in made}) == len(made)
    assert all(world.services.accounts.check(each.user, each.password) for each in made)
    assert add_people(world.services) == []


def test_a_password_is_in_the_file_and_nowhere_else(world: World) -> None:
    made = add_people(world.services)
    assert password_lines(made).splitlines()[0] == f"{made[0].user}\t{made[0].password}"
    assert made[0].password not in repr(made)
    files = [path.read_bytes() for path in world.settings.folder.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(made[0].password.encode() in content for content in files)
