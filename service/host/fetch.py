"""`python -m service.host.fetch` (`make weights`): fetches and verifies what the configuration needs."""

from __future__ import annotations

import sys

from models.errors import ModelError
from models.weights import Store, standard_catalogue
from service.settings import SettingsError, load


def main() -> int:
    """Prints a line per file; a failure is one line on stderr and the status 1."""
    try:
        settings = load()
        catalogue = standard_catalogue(settings.catalogue)
        store = Store(settings.weights_dir)
        for name in settings.models:
            entry = catalogue[name]
            for role, path in store.fetch(entry).items():
                print(f"{name}: {role} {path.name} ({entry.files[role].source}) verified")
    except (ModelError, SettingsError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
