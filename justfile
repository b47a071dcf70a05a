set positional-arguments

unexport VIRTUAL_ENV

export UV_NO_PROGRESS := env("UV_NO_PROGRESS", "1")

# If it is set, as in images, each process of the tests compiles every module that it imports.
export PYTHONDONTWRITEBYTECODE := ""

run := "uv run --quiet"

# Python 3.11 hides lines from coverage.py (docs/decisions/0107), so it has an environment of its
# own. The tests, which install projects, must not see where that is.
measure := 'UV_PYTHON="${UV_PYTHON:-3.13}" UV_PROJECT_ENVIRONMENT=build/versions/coverage uv run --quiet --group e2e --group docs env -u UV_PROJECT_ENVIRONMENT coverage'

# The longest files run first (tests/kinds.py), so that no core is idle at the end.
parallel := "-n auto --dist loadfile --no-loadscope-reorder"
names_path := '(^|\s)(tests|[^-\s]\S*(/|\.py|::)\S*)(\s|$)'
without_processes := "--ignore=tests/template --ignore=tests/e2e --ignore=tests/tour --ignore=tests/abuse --ignore=tests/runtime/cli --ignore=tests/runtime/embedded"
demo_dir := justfile_directory() / "build" / "demo"

[doc("List these recipes")]
_default:
    @just --list --unsorted

[doc("Let git refuse commit subjects that are too long; once after cloning")]
setup:
    git config core.hooksPath scripts/hooks

[doc("Generate a project in build/demo and run it: web app, worker and services")]
[no-exit-message]
demo *args: (render demo_dir)
    @echo "installing what it needs" >&2
    @cd "{{ demo_dir }}" && uv sync --quiet
    @cd "{{ demo_dir }}" && exec uv run --no-sync vibetuner run dev all "$@"

[doc("Run every test in random order: runtime, tour, template, browser; or those of the paths given")]
test *args:
    {{ run }} --group e2e --group docs pytest {{ if args =~ names_path { "" } else { parallel } }} "$@"

[doc("Check, run and update projects with each combination of answers and databases, in minutes")]
matrix *args:
    {{ run }} --group e2e --group docs pytest tests/template/matrix.py -n 2 "$@"

[doc("Run the tests that need no process and no server, in seconds")]
quick *args:
    {{ run }} pytest {{ parallel }} {{ without_processes }} -m "not process and not template and not browser and not slow" "$@"

[doc("Run all tests several times on loaded cores; --stall stops them now and then: just soak 20")]
soak times="20" *args:
    {{ run }} --group e2e --group docs python scripts/soak.py "$@"

[doc("Run the tests of tasks and events on another server: just test-on redis-server")]
[no-exit-message]
test-on server *args:
    @{{ run }} python scripts/test_on.py "$@"

[doc("Run the runtime's tests on other Pythons and the oldest dependencies: just test-versions 3.12 lowest")]
[no-exit-message]
test-versions *args:
    @{{ run }} python scripts/test_versions.py "$@"

[doc("Check format, lint, layers, types and tests, changing nothing")]
check: lint types test

[doc("Format and fix what can be fixed")]
format:
    {{ run }} ruff format .
    {{ run }} ruff check --fix .
    just --unstable --fmt

[doc("Check format, lint, layers, words, and that every test asserts")]
lint:
    {{ run }} ruff format --check .
    {{ run }} ruff check .
    {{ run }} lint-imports --no-cache
    {{ run }} python scripts/lint_tests.py
    {{ run }} python scripts/lint_words.py

[doc("Check types")]
types:
    {{ run }} mypy

[doc("Report what all tests cover of the runtime, and fail below 98 %; or those of the paths given")]
coverage *args:
    {{ measure }} erase
    {{ measure }} run -m pytest {{ if args =~ names_path { "" } else { parallel } }} "$@"
    {{ measure }} combine --quiet
    {{ measure }} report {{ if args == "" { "" } else { "--fail-under=0" } }}

[doc("Change a module in small ways, and show the changes that no test detects: just mutate retry")]
mutate module *args:
    {{ run }} --with "mutmut>=3.8" python scripts/mutate.py "$@"

[doc("Render the template into a folder, replacing what an earlier render left there")]
render folder=demo_dir *args:
    @{{ run }} python scripts/render.py "$@"

[doc("Measure what users wait for, and compare it with other tools (docs/benchmarks.md)")]
bench *names:
    {{ run }} python benchmarks/run.py "$@"

[doc("Kill, stop and freeze workers and servers at random; check that no task is lost")]
chaos *args:
    exec {{ run }} python -m chaos "$@"

[doc("Send random requests, and write random values into every key of Redis: just fuzz --minutes 30")]
fuzz *args:
    exec {{ run }} python -m chaos.fuzz "$@"

[doc("Deliver each webhook five times while web processes are killed; check that it runs once")]
deliveries *args:
    exec {{ run }} python -m chaos.deliveries "$@"

[doc("Build the documentation into build/docs; --serve shows it while you write")]
[no-exit-message]
docs *args:
    @{{ run }} --group docs python scripts/docs.py "$@"

[doc("Set the version, date the changelog, test updates, commit and tag: just release 0.2.0")]
release version *args:
    {{ run }} python scripts/release.py "$@"

[doc("Write a list of all that the runtime installs, as CycloneDX: just sbom build/sbom.json")]
sbom file:
    mkdir -p "$(dirname "$1")"
    uv export --quiet --package vibetuner-runtime --no-dev --all-extras --format cyclonedx1.5 --output-file "$1" >/dev/null

[doc("Take the README's pictures: the generated page, and the terminal that runs it")]
screenshot:
    {{ run }} --group e2e python scripts/screenshot.py
    {{ run }} python scripts/terminal.py

[doc("Delete everything that can be generated again")]
clean:
    rm -rf build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
