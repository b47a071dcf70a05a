"""Documents with links, decimals, UUIDs and bytes in the embedded MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from beanie import DecimalAnnotation, Document, Link

from vibetuner import VibetunerApp
from vibetuner.config import Settings
from vibetuner.resources.mongo import open_mongo


class Buyer(Document):
    name: str


class Purchase(Document):
    buyer: Link[Buyer]
    price: DecimalAnnotation = Decimal("12.30")
    key: UUID
    receipt: bytes = b"\x00\xff"
    at: datetime = datetime(2024, 2, 29, tzinfo=UTC)


async def test_documents_with_links_decimals_ids_and_bytes(settings: Settings):
    """A document is inserted, replaced, saved, and found by a field of each of these types."""
    async with open_mongo(settings, VibetunerApp(models=[Buyer, Purchase])) as database:
        await Buyer(name="Bob").insert()
        ann = await Buyer(name="Ann").insert()
        purchase = await Purchase(buyer=ann, key=uuid4()).insert()
        await purchase.replace()
        await purchase.save()
        await purchase.set({Purchase.price: Decimal("9.90")})

        for condition in (
            Purchase.buyer.id == ann.id,
            Purchase.key == purchase.key,
            Purchase.price == Decimal("9.90"),
            Purchase.receipt == purchase.receipt,
            Purchase.at == purchase.at,
        ):
            (found,) = await Purchase.find(condition).to_list()
            assert (found.id, found.price) == (purchase.id, Decimal("9.90"))
        (fetched,) = await Purchase.find(Purchase.buyer.id == ann.id, fetch_links=True).to_list()
        assert isinstance(fetched.buyer, Buyer)
        assert fetched.buyer.name == "Ann"
        keys = await database["Purchase"].aggregate([{"$project": {"_id": 0, "key": "$_id"}}])
        assert await keys.to_list() == [{"key": purchase.id}]
