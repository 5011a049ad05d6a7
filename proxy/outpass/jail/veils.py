"""Which directories are hidden, and what of them stays visible: arithmetic on paths. Pure.

Lives here: putting veils and what is kept below them into an order that leaves nothing open. May not live here: which
paths are worth hiding (plan.py), mounting (mounts.py). Every path is absolute and canonical.
"""

from __future__ import annotations

from collections.abc import Iterable

from outpass.jail.steps import Keep, Veil


def below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def hidden(path: str, veils: Iterable[Veil]) -> bool:
    """Whether `path` cannot be seen once `veils` hang."""
    covering = [v for v in veils if below(path, v.path)]
    if not covering:
        return False
    innermost = max(covering, key=lambda v: len(v.path))
    return not any(below(path, k.path) for k in innermost.keeps)


def arrange(veils: Iterable[Veil], keeps: Iterable[Keep]) -> list[Veil]:
    """The veils to hang, in order, each with those of `keeps` that lie below it.

    A veil below another is left out, as the outer one hides it already; it becomes an empty folder there, with its mode. But
    where the outer keeps a directory around it, it hangs too, afterwards.
    """
    wanted = tuple(dict.fromkeys(keeps))
    chosen: list[Veil] = []
    for veil in sorted(dict.fromkeys(veils), key=lambda v: (len(v.path), v.path)):
        own = tuple(k for k in wanted if below(k.path, veil.path) and k.path != veil.path)
        covered = hidden(veil.path, chosen)
        if not covered:
            chosen.append(veil._replace(keeps=_reduced(veil.keeps + own)))
            continue
        over = max((n for n, v in enumerate(chosen) if below(veil.path, v.path)), key=lambda n: len(chosen[n].path))
        chosen[over] = _merged(chosen[over], veil._replace(keeps=veil.keeps + own))
    return chosen


def _merged(outer: Veil, inner: Veil) -> Veil:
    folders = outer.folders + inner.folders
    if inner.path != outer.path:
        folders += ((inner.path, inner.mode),)
    return outer._replace(keeps=_reduced(outer.keeps + inner.keeps), files=outer.files + inner.files, folders=folders)


def _reduced(keeps: tuple[Keep, ...]) -> tuple[Keep, ...]:
    """Without those that an outer keep shows anyway, outermost first."""
    kept: list[Keep] = []
    for keep in sorted(dict.fromkeys(keeps), key=lambda k: (len(k.path), k.path)):
        if not any(below(keep.path, k.path) and (k.read_only or not keep.read_only) for k in kept):
            kept.append(keep)
    return tuple(kept)
