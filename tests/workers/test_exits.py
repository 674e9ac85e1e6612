"""Each way in which a process ends has a code of its own: whoever starts it again goes by that."""

from orchestrator.ledger import EXIT_FENCED
from stages.engines import EXIT_ROLE_REFUSED
from workers import replica, tasks, vital, writer


def test_no_two_ends_have_one_code() -> None:
    modules = (replica, tasks, vital, writer)
    named = {
        name: code for module in modules for name, code in vars(module).items() if name.startswith("EXIT_")
    }
    named |= {"EXIT_FENCED": EXIT_FENCED, "EXIT_ROLE_REFUSED": EXIT_ROLE_REFUSED}
    assert len(set(named.values())) == len(named)
