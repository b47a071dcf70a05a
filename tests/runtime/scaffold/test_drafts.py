"""Everything that is generated, planned, written and removed in this process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.projects import write, write_project
from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import apply_changes
from vibetuner.scaffold.draft import Draft, Place, tidy
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.migration import draft_environment
from vibetuner.scaffold.model import check_table_free, draft_model, draft_of_model, parse_fields
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.plan import plan_new, plan_removal
from vibetuner.scaffold.registered import find_models, find_tasks
from vibetuner.scaffold.route import check_page_free, draft_of_route, draft_route
from vibetuner.scaffold.task import (
    TaskOptions,
    draft_batch,
    draft_of_batch,
    draft_of_task,
    draft_task,
)

INVOICE = Name((), "invoice")
VERSIONS = "src/shop/migrations/versions"

pytestmark = pytest.mark.process  # ruff formats what is written


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a project without migrations."""
    return Place(write_project(tmp_path / "project"), "shop")


@pytest.fixture
def migrated(place: Place) -> Place:
    """Return a project with an Alembic environment, and no migration."""
    create(place, draft_environment(place))
    return place


def create(place: Place, draft: Draft) -> None:
    apply_changes(plan_new(place, draft).changes)


def snapshot(place: Place) -> dict[str, bytes]:
    files = (path for path in place.root.rglob("*") if path.is_file())
    return {path.relative_to(place.root).as_posix(): path.read_bytes() for path in files}


def revisions(place: Place) -> list[str]:
    return [path.read_text() for path in sorted((place.root / VERSIONS).glob("*.py"))]


# Without a test


def test_nothing_is_generated_for_a_test_that_nobody_wants(place: Place):
    """Each kind is generated without a test, and removed without one."""
    name = Name(("billing",), "reports")
    before = snapshot(place)
    for draft, draft_of in (
        (draft_task(place, name, TaskOptions(test=False)), draft_of_task),
        (draft_batch(place, name, outbox=False, test=False), draft_of_batch),
        (draft_route(place, name, test=False), draft_of_route),
        (draft_model(place, name, parse_fields([], document=True), document=True, test=False),
         draft_of_model),
    ):  # fmt: skip
        assert draft.next_steps[0] == "uv run just test"
        create(place, draft)
        assert not (place.root / "tests").exists()

        apply_changes(plan_removal(place, draft_of(place, name)).changes)

        after = snapshot(place)
        tune = after.pop("src/shop/tune.py")
        assert b"billing" not in tune
        assert after.keys() == before.keys() - {"src/shop/tune.py"} | {
            path for path in after if path.endswith("__init__.py")
        }


# Models and their migrations


def test_a_table_gets_a_migration_that_follows_the_last_one(migrated: Place):
    """Each new table gets a migration that follows the last one, and no second migration."""
    fields = parse_fields(["number", "paid_at:datetime?"], document=False)
    create(migrated, draft_model(migrated, INVOICE, fields))
    order = draft_model(migrated, Name((), "order"), fields)
    create(migrated, order)
    again = draft_model(migrated, INVOICE, fields)

    first, second = sorted(revisions(migrated), key=lambda text: "down_revision = None" not in text)
    assert 'op.create_table(\n        "invoices",' in first
    assert 'sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True)' in first
    revision = re.search(r'^revision = "(\w+)"$', first, re.MULTILINE)
    assert revision is not None
    assert f'down_revision = "{revision[1]}"' in second
    assert order.next_steps[1] == "uv run vibetuner db upgrade"
    assert not [path for path in again.files if path.startswith(VERSIONS)]
    assert again.next_steps[1] == "uv run vibetuner db revision 'Create invoices'"


def test_a_table_that_is_removed_keeps_its_migration(migrated: Place):
    """A model that is removed keeps its migration, and the next step drops the table."""
    create(migrated, draft_model(migrated, INVOICE, parse_fields([], document=False)))
    removal = plan_removal(migrated, draft_of_model(migrated, INVOICE))
    apply_changes(removal.changes)

    assert not (migrated.root / "src/shop/models/invoice.py").exists()
    assert len(revisions(migrated)) == 1
    assert "uv run vibetuner db revision 'Remove invoices'" in removal.next_steps


def test_two_newest_revisions_must_be_joined_first(migrated: Place):
    """Two newest revisions must be joined before a model; a merge of Alembic joins them."""
    for name in ("a1", "b2"):
        text = f'revision: str = "{name}"\ndown_revision: str | None = None\n'
        write(migrated.root / VERSIONS / f"{name}.py", text)
    fields = parse_fields([], document=False)
    with pytest.raises(CommandError, match=r"2 newest revisions: a1, b2. Join them:  uv run al"):
        draft_model(migrated, INVOICE, fields)

    merge = 'revision = "c3"\ndown_revision = ("a1", "b2")\n'
    write(migrated.root / VERSIONS / "c3.py", merge)
    create(migrated, draft_model(migrated, INVOICE, fields))

    assert [text for text in revisions(migrated) if 'down_revision = "c3"' in text]


def test_a_missing_revision_is_named_before_a_model_is_written(migrated: Place):
    """A revision without a file is named; merging the heads, as for two branches, would fail."""
    for name, parent in (("a1", None), ("c3", "b2")):
        write(
            migrated.root / VERSIONS / f"{name}.py",
            f"revision = '{name}'\ndown_revision = {parent!r}\n",
        )
    with pytest.raises(CommandError, match="No migration has the revision b2, which another foll"):
        draft_model(migrated, INVOICE, parse_fields([], document=False))


@pytest.mark.parametrize("name", [INVOICE, Name(("billing",), "invoice")])
def test_no_two_models_have_one_table(place: Place, name: Name):
    """A table's name is refused if a model has it, with the model and a free name."""
    write(
        place.root / "src/shop/money.py",
        """
        class Bill(SQLModel, table=True):
            __tablename__ = "invoices"
        """,
    )
    with pytest.raises(CommandError) as refused:
        check_table_free(place, name)

    assert str(refused.value) == (
        "src/shop/money.py:1 has the model Bill already, in the table invoices. "
        f"Try:  {name.path}_record"
    )
    check_table_free(place, Name((), "order"))


@pytest.mark.parametrize(
    ("name", "owner"),
    [("user", "vibetuner.models.UserModel"), ("dead_letters", "the dead letters")],
)
def test_a_document_is_not_in_a_collection_of_the_runtime(place: Place, name: str, owner: str):
    """A document whose collection every project has is refused; an SQL table of the name is not."""
    with pytest.raises(CommandError, match=rf"is that of {owner}\. Try:  {name}_record$"):
        check_table_free(place, Name((), name), document=True)
    check_table_free(place, Name((), name))


def test_no_two_pages_have_one_address(place: Place):
    """An address is refused if another file has its page, with that file and a free name."""
    write(
        place.root / "src/shop/frontend/routes/auth.py",
        """
        @router.get("/my-account", response_class=HTMLResponse)
        async def account() -> str: ...
        @router.post("/orders")
        async def order() -> None: ...
        """,
    )
    write(
        place.root / "src/shop/frontend/routes/admin.py",
        """
        router = APIRouter(prefix="/admin")
        @router.get("/orders")
        async def orders() -> None: ...
        """,
    )
    with pytest.raises(CommandError) as refused:
        check_page_free(place, Name((), "my_account"))

    assert str(refused.value) == (
        "src/shop/frontend/routes/auth.py:1 has the page /my-account already. Try:  my_account_page"
    )
    check_page_free(place, Name((), "orders"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["total:money"], "A field is name:type, with ? at the end"),
        (["Total"], "; not 'Total'. Try:  total:str"),
        (["paid:boolean?"], "; not 'paid:boolean?'. Try:  paid:bool?"),
        (["paid_at:date??"], "; not 'paid_at:date??'. Try:  paid_at:date?"),
        (["Größe?=int"], "; not 'Größe?=int'. Try:  grosse:int?"),
        (["2nd:uuid "], "; not '2nd:uuid '. Try:  nd_2:uuid"),
        (["Class:int"], "; not 'Class:int'. Try:  class_value:int"),
        (["date:date?", "due:date?"], "can't have a field named date. Try:  date_value"),
        (["id:int"], "can't have a field named id. Try:  id_value"),
        (["model_year:int"], "can't have a field named model_year. Try:  year_value"),
        (["total:int", "total"], "The field total is given twice. Keep one"),
    ],
)
def test_a_field_that_can_not_be_is_refused(fields: list[str], words: str):
    """A field that can't be is refused with the cure."""
    with pytest.raises(CommandError, match=re.escape(words)):
        parse_fields(fields, document=False)


@pytest.mark.parametrize("name", ["cls", "l", "self", "sqlmodel_update", "validate", "revision_id"])
@pytest.mark.parametrize("document", [False, True])
def test_a_field_can_not_hide_what_its_class_has(name: str, document: bool):
    """A field is refused if the class can't have it, or if lint calls its name ambiguous."""
    if document and name == "sqlmodel_update":
        assert parse_fields([name], document=True)[0].name == name
        return
    with pytest.raises(CommandError, match=f"field named {name}. Try:  {name}_value"):
        parse_fields([name], document=document)


def test_a_document_has_more_names_than_a_table():
    """A field named ``max`` is refused in a document, where it is a query, and not in a table."""
    assert parse_fields(["max:int"], document=False)[0].name == "max"
    with pytest.raises(CommandError, match="field named max. Try:  max_value"):
        parse_fields(["max:int"], document=True)


# Tasks


def test_the_options_of_a_task_exclude_each_other(place: Place):
    """Options that exclude each other are refused.

    A file with such options was not generated, and counts as changed.
    """
    with pytest.raises(CommandError, match="--progress sends events to somebody who watches"):
        TaskOptions(progress=True, sync=True)

    text = "from vibetuner.tasks.progress import report\ndef reports(): ...\n"
    write(place.root / "src/shop/tasks/reports.py", text)
    removal = plan_removal(place, draft_of_task(place, Name((), "reports")))

    assert [change.path.name for change in removal.conflicts] == ["reports.py"]
    assert removal.changes == []


# Files that are not as they should be


def test_a_tune_that_is_no_text_is_named(place: Place):
    """A tune.py in another encoding is named as such."""
    place.tune.write_bytes("app = 'Böhm'".encode("latin-1"))
    draft = Draft(files={}, entries=(Entry("tasks", "shop.a", "a", ("a",)),))
    with pytest.raises(CommandError, match=r"tune\.py can't be edited: it is not UTF-8"):
        plan_new(place, draft)


def test_a_folder_in_the_place_of_a_file_is_named(place: Place):
    """A folder in the place of a file is named."""
    (place.root / "notes.txt").mkdir()
    with pytest.raises(CommandError, match=r"notes\.txt can't be read \(Is a directory\)"):
        plan_new(place, Draft(files={"notes.txt": "news"}))


@pytest.mark.parametrize("code", ["", "from .send import send\n"])
def test_a_module_that_a_package_would_hide_is_not_written(place: Place, code: str):
    """A task named like a folder of tasks is refused, as Python would import the folder."""
    create(place, draft_task(place, Name(("billing",), "send"), TaskOptions()))
    write(place.root / "src/shop/tasks/billing/__init__.py", code)
    before = snapshot(place)
    with pytest.raises(CommandError) as refused:
        plan_new(place, draft_task(place, Name((), "billing"), TaskOptions()))

    assert str(refused.value) == (
        "src/shop/tasks/billing/ is a package, which would hide src/shop/tasks/billing.py. "
        "Choose another name, or rename the package first"
    )
    assert snapshot(place) == before


def test_broken_code_hides_no_other(place: Place):
    """A file with a syntax error is not searched for tasks or formatted, and hides no other."""
    write(place.root / "src/shop/broken.py", "def (")
    write(place.root / "src/shop/jobs.py", "@robust_task(name='nightly')\nasync def clean(): ...\n")

    assert find_tasks(place.root / "src") == {"nightly": (place.root / "src/shop/jobs.py", 2)}
    assert list(find_models(place.root / "src")) == []
    assert tidy(place, place.root / "broken.py", "def (  ") == "def (  "
