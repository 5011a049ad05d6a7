"""Orders, in PostgreSQL.

Lives here: the table, and sessions. May not live here: who may order.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from shop import settings

engine = create_engine(settings.DATABASE_URL, pool_size=10, max_overflow=30)


class Base(DeclarativeBase):
    """The shop's tables."""


class Order(Base):
    """What somebody bought."""

    __tablename__ = "shop_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    cents: Mapped[int]
    payment: Mapped[str] = mapped_column(default="")


def session() -> Iterator[Session]:
    """For one request."""
    with Session(engine) as made:
        yield made
