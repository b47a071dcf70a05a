"""Operations of PyMongo, and MongoDB's answers according to its manual.

Each operation has the documents of a collection, a call, and the expected answer; an answer that is
:class:`Refused` is MongoDB's error code. The calls use PyMongo, as a project does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from pymongo import ASCENDING, DESCENDING, DeleteOne, InsertOne, ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

__all__ = ["OPERATIONS", "Operation", "Refused", "answer"]

Documents = list[dict[str, Any]]
Call = Callable[[Collection[Any]], Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer of MongoDB that is an error of this code."""

    code: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One call on a collection that holds ``documents``, and MongoDB's answer."""

    name: str
    documents: Documents
    call: Call
    expected: Any


def answer(operation: Operation, collection: Collection[Any]) -> Any:
    """Return the server's answer to an operation, or its error."""
    if operation.documents:
        collection.insert_many([dict(document) for document in operation.documents])
    try:
        return operation.call(collection)
    except BulkWriteError as error:
        return Refused(error.details["writeErrors"][0]["code"])
    except OperationFailure as error:
        return Refused(error.code or 0)


def ids(collection: Collection[Any], query: dict[str, Any], **options: Any) -> list[Any]:
    """Return the sorted ids of what ``query`` finds."""
    return sorted(found["_id"] for found in collection.find(query, **options))


def one(collection: Collection[Any]) -> Any:
    """Return the only document without its id."""
    (document,) = collection.find({}, {"_id": 0})
    return document


def all_of(collection: Collection[Any]) -> Documents:
    """Return every document by id."""
    return list(collection.find().sort("_id", 1))


def update(change: Any, query: dict[str, Any] | None = None, **options: Any) -> Call:
    """Return a call that updates one document and returns the only one."""

    def call(collection: Collection[Any]) -> Any:
        collection.update_one(query or {}, change, **options)
        return one(collection)

    return call


def pipeline(*stages: dict[str, Any]) -> Call:
    """Return a call that runs an aggregation."""
    return lambda collection: list(collection.aggregate(list(stages)))


def computed(expression: Any) -> Call:
    """Return a call for the value of an aggregation expression on the only document."""
    stage = {"$project": {"_id": 0, "r": expression}}
    return lambda collection: next(iter(collection.aggregate([stage]))).get("r", "absent")


def finding(query: dict[str, Any], **options: Any) -> Call:
    """Return a call for the ids of the documents that ``query`` finds."""
    return lambda collection: ids(collection, query, **options)


def round_trip(value: Any) -> Operation:
    """Return an operation that stores a value and reads it, equal and of the same type."""

    def call(collection: Collection[Any]) -> Any:
        collection.insert_one({"v": value})
        back = one(collection)["v"]
        return back, type(back).__name__

    name = f"store {type(value).__name__} {str(value)[:24]}"
    return Operation(name, [], call, (value, type(value).__name__))


def by_value(value: Any) -> Operation:
    """Return an operation that finds a document by its value, and not the one beside it."""
    documents = [{"_id": 1, "v": value}, {"_id": 2, "v": "another"}]
    name = f"find by {type(value).__name__} {str(value)[:24]}"
    return Operation(name, documents, finding({"v": value}), [1])


def by_id(value: Any) -> Operation:
    """Return an operation that replaces a document whose id is not an ObjectId."""

    def call(collection: Collection[Any]) -> Any:
        result = collection.replace_one({"_id": value}, {"v": 2})
        return result.matched_count, collection.find_one({"_id": value})

    name = f"replace by id {type(value).__name__} {str(value)[:24]}"
    return Operation(name, [{"_id": value, "v": 1}], call, (1, {"_id": value, "v": 2}))


OID = ObjectId("65f0a1b2c3d4e5f601234567")
UUID4 = UUID("5c6f7a8b-1c2d-4e3f-8a9b-0c1d2e3f4a5b")
DAY = datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=UTC)
VALUES: tuple[Any, ...] = (
    "text",
    "ünï\u2028cödé \U0001f600",
    "",
    7,
    Int64(2**60),
    1.5,
    True,
    None,
    DAY,
    OID,
    UUID4,
    b"\x00\xff bytes",
    Decimal128("12.30"),
    [1, [2, {"a": None}], "x"],
    {"b": 1, "a": {"c": []}},
)

PEOPLE: Documents = [
    {"_id": 1, "name": "Ann", "age": 31, "tags": ["a", "b"], "at": {"city": "Oslo", "zip": 1}},
    {"_id": 2, "name": "bob", "age": 25, "tags": ["b"], "at": {"city": "Rome"}},
    {"_id": 3, "name": "Cid", "age": None, "tags": []},
    {"_id": 4, "name": "Dan", "tags": ["a", "c", "d"], "score": [3, 8]},
    {
        "_id": 5,
        "name": "Eve",
        "age": 31.0,
        "at": None,
        "items": [{"n": 1, "q": 5}, {"n": 2, "q": 9}],
    },
]

QUERIES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "equal, int and float": ({"age": 31}, [1, 5]),
    "null finds absent": ({"age": None}, [3, 4]),
    "$eq": ({"age": {"$eq": 25}}, [2]),
    "$ne": ({"age": {"$ne": 31}}, [2, 3, 4]),
    "$gt": ({"age": {"$gt": 25}}, [1, 5]),
    "$gte and $lt": ({"age": {"$gte": 25, "$lt": 31}}, [2]),
    "$lte": ({"age": {"$lte": 25}}, [2]),
    "$gt of another type": ({"name": {"$gt": 5}}, []),
    "$in": ({"name": {"$in": ["Ann", "Eve", "Zoe"]}}, [1, 5]),
    "$in with null": ({"age": {"$in": [None, 25]}}, [2, 3, 4]),
    "$in with a pattern": ({"name": {"$in": [re.compile("^A"), "bob"]}}, [1, 2]),
    "$nin": ({"name": {"$nin": ["Ann", "Eve"]}}, [2, 3, 4]),
    "$exists": ({"age": {"$exists": True}}, [1, 2, 3, 5]),
    "$exists false": ({"at": {"$exists": False}}, [3, 4]),
    "$type by name": ({"age": {"$type": "number"}}, [1, 2, 5]),
    "$type null": ({"age": {"$type": "null"}}, [3]),
    "$type of array items": ({"tags": {"$type": "string"}}, [1, 2, 4]),
    "$and": ({"$and": [{"age": 31}, {"name": "Ann"}]}, [1]),
    "$or": ({"$or": [{"name": "Ann"}, {"age": 25}]}, [1, 2]),
    "$nor": ({"$nor": [{"name": "Ann"}, {"age": 25}]}, [3, 4, 5]),
    "$not": ({"age": {"$not": {"$gt": 25}}}, [2, 3, 4]),
    "dotted path": ({"at.city": "Rome"}, [2]),
    "dotted path, null": ({"at.zip": None}, [2, 3, 4, 5]),
    "whole subdocument": ({"at": {"city": "Oslo", "zip": 1}}, [1]),
    "whole subdocument, other order": ({"at": {"zip": 1, "city": "Oslo"}}, []),
    "array holds": ({"tags": "b"}, [1, 2]),
    "whole array": ({"tags": ["a", "b"]}, [1]),
    "array by index": ({"tags.0": "a"}, [1, 4]),
    "$all": ({"tags": {"$all": ["a", "d"]}}, [4]),
    "$size": ({"tags": {"$size": 1}}, [2]),
    "$size 0": ({"tags": {"$size": 0}}, [3]),
    "$elemMatch of values": ({"score": {"$elemMatch": {"$gt": 4, "$lt": 7}}}, []),
    "range over array items": ({"score": {"$gt": 4, "$lt": 7}}, [4]),
    "$elemMatch of documents": ({"items": {"$elemMatch": {"n": 1, "q": 5}}}, [5]),
    "$elemMatch, two documents": ({"items": {"$elemMatch": {"n": 1, "q": 9}}}, []),
    "dotted over array": ({"items.n": 2}, [5]),
    "$regex": ({"name": {"$regex": "^[AE]"}}, [1, 5]),
    "$regex with $options": ({"name": {"$regex": "^B", "$options": "i"}}, [2]),
    "a pattern": ({"name": re.compile("n$")}, [1, 4]),
    "a BSON pattern": ({"name": Regex("^e", "i")}, [5]),
    "$mod": ({"age": {"$mod": [10, 5]}}, [2]),
    "$expr": ({"$expr": {"$gt": [{"$size": {"$ifNull": ["$tags", []]}}, 2]}}, [4]),
    "$expr of two fields": ({"$expr": {"$eq": ["$at.zip", "$_id"]}}, [1]),
    "$comment": ({"name": "Ann", "$comment": "why"}, [1]),
    "$jsonSchema": ({"$jsonSchema": {"required": ["score"]}}, [4]),
    "$bitsAllSet": ({"_id": {"$bitsAllSet": 4}}, [4, 5]),
    "$id range": ({"_id": {"$gt": 1, "$lt": 4}}, [2, 3]),
    "$not of a pattern": ({"name": {"$not": re.compile("^[A-D]")}}, [2, 5]),
    "unknown operator": ({"age": {"$near_enough": 3}}, Refused(2)),  # type: ignore[dict-item]
    "unknown top operator": ({"$every": []}, Refused(2)),  # type: ignore[dict-item]
}

UPDATES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "$set": ({"a": 1}, {"$set": {"b": 2}}, {"a": 1, "b": 2}),
    "$set dotted": ({"a": {"b": 1}}, {"$set": {"a.c.d": 2}}, {"a": {"b": 1, "c": {"d": 2}}}),
    "$set array item": ({"a": [1, 2]}, {"$set": {"a.1": 9}}, {"a": [1, 9]}),
    "$set past the end": ({"a": [1]}, {"$set": {"a.3": 9}}, {"a": [1, None, None, 9]}),
    "$set Decimal128": ({"a": 1}, {"$set": {"a": Decimal128("1.10")}}, {"a": Decimal128("1.10")}),
    "$set UUID": ({"a": 1}, {"$set": {"a": UUID4}}, {"a": UUID4}),
    "$set bytes": ({"a": 1}, {"$set": {"a": b"\x00x"}}, {"a": b"\x00x"}),
    "$set date": ({"a": 1}, {"$set": {"a": DAY}}, {"a": DAY}),
    "$unset": ({"a": 1, "b": 2}, {"$unset": {"a": ""}}, {"b": 2}),
    "$unset dotted": ({"a": {"b": 1, "c": 2}}, {"$unset": {"a.b": 1}}, {"a": {"c": 2}}),
    "$inc": ({"a": 1}, {"$inc": {"a": 2, "b": 5}}, {"a": 3, "b": 5}),
    "$inc float": ({"a": 1}, {"$inc": {"a": 0.5}}, {"a": 1.5}),
    "$inc Decimal128": ({"a": Decimal128("1.1")}, {"$inc": {"a": 1}}, {"a": Decimal128("2.1")}),
    "$inc of text": ({"a": "x"}, {"$inc": {"a": 1}}, Refused(14)),
    "$mul": ({"a": 3}, {"$mul": {"a": 2, "b": 5}}, {"a": 6, "b": 0}),
    "$min": ({"a": 5}, {"$min": {"a": 3, "b": 1}}, {"a": 3, "b": 1}),
    "$max": ({"a": 5}, {"$max": {"a": 3}}, {"a": 5}),
    "$rename": ({"a": 1}, {"$rename": {"a": "b"}}, {"b": 1}),
    "$push": ({"a": [1]}, {"$push": {"a": 2, "b": 3}}, {"a": [1, 2], "b": [3]}),
    "$push $each": ({"a": [1]}, {"$push": {"a": {"$each": [2, 3]}}}, {"a": [1, 2, 3]}),
    "$push $slice": (
        {"a": [1, 2]},
        {"$push": {"a": {"$each": [3, 4], "$slice": -3}}},
        {"a": [2, 3, 4]},
    ),
    "$push $sort": ({"a": [3]}, {"$push": {"a": {"$each": [1, 2], "$sort": 1}}}, {"a": [1, 2, 3]}),
    "$push $position": (
        {"a": [1, 2]},
        {"$push": {"a": {"$each": [9], "$position": 1}}},
        {"a": [1, 9, 2]},
    ),
    "$push to a number": ({"a": 1}, {"$push": {"a": 2}}, Refused(2)),
    "$addToSet": ({"a": [1, 2]}, {"$addToSet": {"a": 2}}, {"a": [1, 2]}),
    "$addToSet $each": ({"a": [1]}, {"$addToSet": {"a": {"$each": [1, 2]}}}, {"a": [1, 2]}),
    "$pull": ({"a": [1, 2, 1]}, {"$pull": {"a": 1}}, {"a": [2]}),
    "$pull by condition": ({"a": [1, 5, 9]}, {"$pull": {"a": {"$gte": 5}}}, {"a": [1]}),
    "$pull documents": (
        {"a": [{"n": 1, "q": 1}, {"n": 2}]},
        {"$pull": {"a": {"n": 1}}},
        {"a": [{"n": 2}]},
    ),
    "$pullAll": ({"a": [1, 2, 3, 1]}, {"$pullAll": {"a": [1, 3]}}, {"a": [2]}),
    "$pop last": ({"a": [1, 2]}, {"$pop": {"a": 1}}, {"a": [1]}),
    "$pop first": ({"a": [1, 2]}, {"$pop": {"a": -1}}, {"a": [2]}),
    "$bit": ({"a": 13}, {"$bit": {"a": {"and": 10}}}, {"a": 8}),
    "$[] every item": ({"a": [1, 2]}, {"$inc": {"a.$[]": 10}}, {"a": [11, 12]}),
    "pipeline": (
        {"a": 1, "b": 2},
        [{"$set": {"c": {"$add": ["$a", "$b"]}}}],
        {"a": 1, "b": 2, "c": 3},
    ),
    "unknown operator": ({"a": 1}, {"$increase": {"a": 1}}, Refused(9)),
    "two operators, one path": ({"a": 1}, {"$set": {"a": 1}, "$inc": {"a": 1}}, Refused(40)),
    "change of _id": ({"_id": 1, "a": 1}, {"$set": {"_id": 2}}, Refused(66)),
}

EXPRESSIONS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "$add": ({"a": 2, "b": 3}, {"$add": ["$a", "$b", 1]}, 6),
    "$add date": ({"a": DAY}, {"$add": ["$a", 1000]}, DAY + timedelta(seconds=1)),
    "$subtract dates": ({"a": DAY}, {"$subtract": ["$a", DAY - timedelta(seconds=2)]}, Int64(2000)),
    "$multiply": ({"a": 2.5}, {"$multiply": ["$a", 2]}, 5.0),
    "$divide": ({"a": 5}, {"$divide": ["$a", 2]}, 2.5),
    "$mod": ({"a": 7}, {"$mod": ["$a", 4]}, 3),
    "$round": ({"a": 2.345}, {"$round": ["$a", 1]}, 2.3),
    "$abs": ({"a": -3}, {"$abs": "$a"}, 3),
    "$add Decimal128": ({"a": Decimal128("1.10")}, {"$add": ["$a", 1]}, Decimal128("2.10")),
    "$concat": ({"a": "x", "b": "y"}, {"$concat": ["$a", "-", "$b"]}, "x-y"),
    "$concat null": ({"a": "x"}, {"$concat": ["$a", "$b"]}, None),
    "$toUpper": ({"a": "xy"}, {"$toUpper": "$a"}, "XY"),
    "$substrCP": ({"a": "héllo"}, {"$substrCP": ["$a", 1, 3]}, "éll"),
    "$split": ({"a": "x,y"}, {"$split": ["$a", ","]}, ["x", "y"]),
    "$strLenCP": ({"a": "hé"}, {"$strLenCP": "$a"}, 2),
    "$trim": ({"a": "  x "}, {"$trim": {"input": "$a"}}, "x"),
    "$regexMatch": ({"a": "abc"}, {"$regexMatch": {"input": "$a", "regex": "^a"}}, True),
    "$replaceAll": (
        {"a": "a-b-c"},
        {"$replaceAll": {"input": "$a", "find": "-", "replacement": "+"}},
        "a+b+c",
    ),
    "$cond": ({"a": 5}, {"$cond": [{"$gt": ["$a", 3]}, "big", "small"]}, "big"),
    "$ifNull": ({"a": None}, {"$ifNull": ["$a", "none"]}, "none"),
    "$switch": (
        {"a": 5},
        {"$switch": {"branches": [{"case": {"$lt": ["$a", 3]}, "then": 1}], "default": 2}},
        2,
    ),
    "$size": ({"a": [1, 2]}, {"$size": "$a"}, 2),
    "$arrayElemAt": ({"a": [1, 2]}, {"$arrayElemAt": ["$a", -1]}, 2),
    "$filter": (
        {"a": [1, 5]},
        {"$filter": {"input": "$a", "as": "i", "cond": {"$gt": ["$$i", 3]}}},
        [5],
    ),
    "$map": ({"a": [1, 5]}, {"$map": {"input": "$a", "in": {"$add": ["$$this", 1]}}}, [2, 6]),
    "$reduce": (
        {"a": [1, 5]},
        {
            "$reduce": {
                "input": "$a",
                "initialValue": 0,
                "in": {"$add": ["$$value", "$$this"]},
            }
        },
        6,
    ),
    "$in": ({"a": [1, 5]}, {"$in": [5, "$a"]}, True),
    "$concatArrays": ({"a": [1]}, {"$concatArrays": ["$a", [2]]}, [1, 2]),
    "$setUnion": ({"a": [1]}, {"$setIsSubset": [[1], "$a"]}, True),
    "$sum of array": ({"a": [1, 5]}, {"$sum": "$a"}, 6),
    "$dateToString": (
        {"a": DAY},
        {"$dateToString": {"date": "$a", "format": "%Y-%m-%d"}},
        "2024-02-29",
    ),
    "$year": ({"a": DAY}, {"$year": "$a"}, 2024),
    "$dateTrunc": (
        {"a": DAY},
        {"$dateTrunc": {"date": "$a", "unit": "day"}},
        datetime(2024, 2, 29, tzinfo=UTC),
    ),
    "$dateDiff": (
        {"a": DAY},
        {"$dateDiff": {"startDate": "$a", "endDate": DAY + timedelta(days=3), "unit": "day"}},
        Int64(3),
    ),
    "$toString of ObjectId": ({"a": OID}, {"$toString": "$a"}, str(OID)),
    "$toObjectId": ({"a": str(OID)}, {"$toObjectId": "$a"}, OID),
    "$toInt": ({"a": "12"}, {"$toInt": "$a"}, 12),
    "$type": ({"a": Decimal128("1")}, {"$type": "$a"}, "decimal"),
    "$mergeObjects": ({"a": {"x": 1}}, {"$mergeObjects": ["$a", {"y": 2}]}, {"x": 1, "y": 2}),
    "$objectToArray": ({"a": {"x": 1}}, {"$objectToArray": "$a"}, [{"k": "x", "v": 1}]),
    "$literal": ({"a": 1}, {"$literal": "$a"}, "$a"),
    "$cmp across types": ({"a": "x"}, {"$cmp": ["$a", 5]}, 1),
    "$getField": ({"a": {"b.c": 1}}, {"$getField": {"field": "b.c", "input": "$a"}}, 1),
    "absent field": ({"a": 1}, "$missing", "absent"),
    "unknown expression": ({"a": 1}, {"$plus": [1, 2]}, Refused(31325)),
}

SALES: Documents = [
    {"_id": 1, "item": "pen", "n": 2, "by": OID, "tags": ["x", "y"]},
    {"_id": 2, "item": "ink", "n": 1, "by": UUID4, "tags": []},
    {"_id": 3, "item": "pen", "n": 5, "by": OID},
]


def beside(documents: Documents, *stages: dict[str, Any]) -> Call:
    """Return a call that runs an aggregation with a second collection, ``other``."""

    def call(collection: Collection[Any]) -> Any:
        other = collection.database["other"]
        other.drop()
        other.insert_many(documents)
        return list(collection.aggregate(list(stages)))

    return call


GROUP_BY_ITEM = {"$group": {"_id": "$item", "n": {"$sum": "$n"}}}
BY_ID = {"$sort": {"_id": 1}}
PIPELINES: dict[str, tuple[Call, Any]] = {
    "$match": (pipeline({"$match": {"item": "ink"}}, {"$project": {"n": 1}}), [{"_id": 2, "n": 1}]),
    "$match by UUID": (
        pipeline({"$match": {"by": UUID4}}, {"$project": {"n": 1}}),
        [{"_id": 2, "n": 1}],
    ),
    "$group $sum": (
        pipeline(GROUP_BY_ITEM, BY_ID),
        [{"_id": "ink", "n": 1}, {"_id": "pen", "n": 7}],
    ),
    "$group $sum Decimal128": (
        pipeline({"$group": {"_id": None, "p": {"$sum": Decimal128("2.25")}}}),
        [{"_id": None, "p": Decimal128("6.75")}],
    ),
    "$group $avg, $min, $max": (
        pipeline(
            {
                "$group": {
                    "_id": None,
                    "a": {"$avg": "$n"},
                    "b": {"$min": "$n"},
                    "c": {"$max": "$item"},
                }
            }
        ),
        [{"_id": None, "a": 8 / 3, "b": 1, "c": "pen"}],
    ),
    "$group $push": (
        pipeline(BY_ID, {"$group": {"_id": "$item", "ns": {"$push": "$n"}}}, BY_ID),
        [{"_id": "ink", "ns": [1]}, {"_id": "pen", "ns": [2, 5]}],
    ),
    "$group $first, $last": (
        pipeline(BY_ID, {"$group": {"_id": None, "f": {"$first": "$n"}, "l": {"$last": "$n"}}}),
        [{"_id": None, "f": 2, "l": 5}],
    ),
    "$group by ObjectId": (
        pipeline({"$match": {"by": OID}}, {"$group": {"_id": "$by", "n": {"$sum": 1}}}),
        [{"_id": OID, "n": 2}],
    ),
    "$group by two": (
        pipeline({"$group": {"_id": {"i": "$item", "b": "$by"}}}, {"$count": "c"}),
        [{"c": 2}],
    ),
    "$count": (pipeline({"$match": {"n": {"$gt": 1}}}, {"$count": "c"}), [{"c": 2}]),
    "$sort, $skip, $limit": (
        pipeline({"$sort": {"n": -1}}, {"$skip": 1}, {"$limit": 1}, {"$project": {"n": 1}}),
        [{"_id": 1, "n": 2}],
    ),
    "$project without _id": (
        pipeline(BY_ID, {"$project": {"_id": 0, "item": 1}}),
        [{"item": "pen"}, {"item": "ink"}, {"item": "pen"}],
    ),
    "$project of _id": (
        pipeline({"$match": {"_id": 2}}, {"$project": {"_id": 0, "key": "$_id"}}),
        [{"key": 2}],
    ),
    "$project _id only": (
        pipeline(BY_ID, {"$project": {"_id": 1}}),
        [{"_id": 1}, {"_id": 2}, {"_id": 3}],
    ),
    "$project excluded": (
        pipeline({"$match": {"_id": 2}}, {"$project": {"by": 0, "tags": 0}}),
        [{"_id": 2, "item": "ink", "n": 1}],
    ),
    "$addFields": (
        pipeline(
            {"$match": {"_id": 2}},
            {"$addFields": {"d": {"$add": ["$n", "$_id"]}}},
            {"$project": {"d": 1}},
        ),
        [{"_id": 2, "d": 3}],
    ),
    "$unset": (
        pipeline({"$match": {"_id": 2}}, {"$unset": ["by", "tags", "item"]}),
        [{"_id": 2, "n": 1}],
    ),
    "$unwind": (
        pipeline({"$unwind": "$tags"}, {"$project": {"tags": 1}}),
        [{"_id": 1, "tags": "x"}, {"_id": 1, "tags": "y"}],
    ),
    "$unwind kept": (
        pipeline(
            {"$unwind": {"path": "$tags", "preserveNullAndEmptyArrays": True}}, {"$count": "c"}
        ),
        [{"c": 4}],
    ),
    "$replaceRoot": (
        pipeline({"$match": {"_id": 2}}, {"$replaceRoot": {"newRoot": {"x": "$n"}}}),
        [{"x": 1}],
    ),
    "$sortByCount": (
        pipeline({"$sortByCount": "$item"}),
        [{"_id": "pen", "count": 2}, {"_id": "ink", "count": 1}],
    ),
    "$bucket": (
        pipeline({"$bucket": {"groupBy": "$n", "boundaries": [0, 2, 9]}}),
        [{"_id": 0, "count": 1}, {"_id": 2, "count": 2}],
    ),
    "$facet": (
        pipeline(
            {
                "$facet": {
                    "a": [{"$count": "c"}],
                    "b": [{"$match": {"n": 1}}, {"$project": {"n": 1}}],
                }
            }
        ),
        [{"a": [{"c": 3}], "b": [{"_id": 2, "n": 1}]}],
    ),
    "$lookup on _id": (
        beside(
            [{"_id": OID, "name": "Ann"}],
            {"$match": {"_id": 1}},
            {"$lookup": {"from": "other", "localField": "by", "foreignField": "_id", "as": "who"}},
            {"$project": {"who": 1}},
        ),
        [{"_id": 1, "who": [{"_id": OID, "name": "Ann"}]}],
    ),
    "$lookup on _id, UUID": (
        beside(
            [{"_id": UUID4, "name": "Bob"}],
            {"$match": {"_id": 2}},
            {"$lookup": {"from": "other", "localField": "by", "foreignField": "_id", "as": "who"}},
            {"$project": {"who": 1}},
        ),
        [{"_id": 2, "who": [{"_id": UUID4, "name": "Bob"}]}],
    ),
    "$lookup from _id": (
        beside(
            [{"_id": 9, "sale": 1}, {"_id": 8, "sale": 2}],
            {"$match": {"_id": 1}},
            {"$lookup": {"from": "other", "localField": "_id", "foreignField": "sale", "as": "o"}},
            {"$project": {"o": 1}},
        ),
        [{"_id": 1, "o": [{"_id": 9, "sale": 1}]}],
    ),
    "$lookup of nothing": (
        beside(
            [{"_id": 9}],
            {"$match": {"_id": 1}},
            {"$lookup": {"from": "other", "localField": "by", "foreignField": "_id", "as": "who"}},
            {"$project": {"who": 1}},
        ),
        [{"_id": 1, "who": []}],
    ),
    "$lookup with a pipeline": (
        beside(
            [{"_id": OID, "name": "Ann"}],
            {"$match": {"_id": 1}},
            {
                "$lookup": {
                    "from": "other",
                    "let": {"by": "$by"},
                    "pipeline": [
                        {"$match": {"$expr": {"$eq": ["$_id", "$$by"]}}},
                        {"$project": {"_id": 0}},
                    ],
                    "as": "who",
                }
            },
            {"$project": {"who": 1}},
        ),
        [{"_id": 1, "who": [{"name": "Ann"}]}],
    ),
    "$lookup and $unwind": (
        beside(
            [{"_id": OID, "name": "Ann"}],
            {"$lookup": {"from": "other", "localField": "by", "foreignField": "_id", "as": "who"}},
            {"$unwind": "$who"},
            {"$group": {"_id": "$who.name", "n": {"$sum": "$n"}}},
        ),
        [{"_id": "Ann", "n": 7}],
    ),
    "$unionWith": (beside([{"_id": 9}], {"$unionWith": "other"}, {"$count": "c"}), [{"c": 4}]),
    "$setWindowFields": (
        pipeline(
            {
                "$setWindowFields": {
                    "sortBy": {"_id": 1},
                    "output": {
                        "t": {"$sum": "$n", "window": {"documents": ["unbounded", "current"]}}
                    },
                }
            },
            {"$project": {"t": 1}},
        ),
        [{"_id": 1, "t": 2}, {"_id": 2, "t": 3}, {"_id": 3, "t": 8}],
    ),
    "$sample": (pipeline({"$sample": {"size": 2}}, {"$count": "c"}), [{"c": 2}]),
    "unknown stage": (pipeline({"$grop": {}}), Refused(40324)),
}


def _upsert(collection: Collection[Any]) -> Any:
    result = collection.update_one(
        {"k": 1}, {"$set": {"v": 2}, "$setOnInsert": {"w": 3}}, upsert=True
    )
    return result.upserted_id is not None, result.matched_count, one(collection)


def _bulk(collection: Collection[Any]) -> Any:
    result = collection.bulk_write(
        [
            InsertOne({"_id": 9}),
            UpdateOne({"_id": 1}, {"$set": {"age": 1}}),
            DeleteOne({"_id": 2}),
            UpdateOne({"_id": 77}, {"$set": {"v": 1}}, upsert=True),
        ]
    )
    return result.inserted_count, result.modified_count, result.deleted_count, result.upserted_count


def _unique(collection: Collection[Any]) -> Any:
    collection.create_index("email", unique=True)
    collection.insert_one({"email": "a"})
    collection.insert_one({"email": "a"})


def _unique_pair(collection: Collection[Any]) -> Any:
    collection.create_index([("a", 1), ("b", -1)], unique=True)
    collection.insert_many([{"a": 1, "b": 1}, {"a": 1, "b": 2}])
    collection.insert_one({"a": 1, "b": 2})


def _unique_sparse(collection: Collection[Any]) -> Any:
    collection.create_index("email", unique=True, sparse=True)
    collection.insert_many([{"_id": 1}, {"_id": 2}])
    return collection.count_documents({})


def _unique_partial(collection: Collection[Any]) -> Any:
    collection.create_index("e", unique=True, partialFilterExpression={"live": True})
    collection.insert_many([{"_id": 1, "e": 1, "live": True}, {"_id": 2, "e": 1, "live": False}])
    return collection.count_documents({})


def _unique_null(collection: Collection[Any]) -> Any:
    collection.create_index("email", unique=True)
    collection.insert_one({"_id": 1})
    collection.insert_one({"_id": 2})


def _unique_update(collection: Collection[Any]) -> Any:
    collection.create_index("name", unique=True)
    collection.update_one({"_id": 1}, {"$set": {"name": "bob"}})


def _index_names(collection: Collection[Any]) -> Any:
    collection.create_index([("age", DESCENDING), ("name", ASCENDING)])
    collection.create_index("tags", name="by_tags", expireAfterSeconds=60)
    found = collection.index_information()
    return sorted(found), found["by_tags"].get("expireAfterSeconds")


def _index_dropped(collection: Collection[Any]) -> Any:
    collection.drop_index(collection.create_index("age"))
    return sorted(collection.index_information())


def _unordered(collection: Collection[Any]) -> Any:
    try:
        collection.insert_many([{"_id": 1}, {"_id": 10}], ordered=False)
    except BulkWriteError as error:
        return error.details["nInserted"], collection.count_documents({})


def _transaction(collection: Collection[Any]) -> Any:
    client = collection.database.client
    with client.start_session() as session:
        session.start_transaction()
        collection.insert_one({"_id": 100}, session=session)
        session.abort_transaction()
    return collection.count_documents({"_id": 100})


def _find_and(method: str, *arguments: Any, **options: Any) -> Call:
    return lambda collection: getattr(collection, method)(*arguments, **options)


def _counts(method: str, *arguments: Any) -> Call:
    def call(collection: Collection[Any]) -> Any:
        result = getattr(collection, method)(*arguments)
        if hasattr(result, "deleted_count"):
            return result.deleted_count
        return result.matched_count, result.modified_count

    return call


def _sorted_types(collection: Collection[Any]) -> Any:
    return [found["_id"] for found in collection.find().sort("v", 1)]


def _cursor(collection: Collection[Any]) -> Any:
    collection.insert_many([{"n": n} for n in range(350)])
    return sum(found["n"] for found in collection.find(batch_size=20))


def _rename(collection: Collection[Any]) -> Any:
    database = collection.database
    database["renamed"].drop()
    collection.rename("renamed")
    return database["renamed"].count_documents({}), collection.count_documents({})


def _collections(collection: Collection[Any]) -> Any:
    return collection.name in collection.database.list_collection_names()


def _positional(collection: Collection[Any]) -> Any:
    collection.update_one({"items.n": 2}, {"$set": {"items.$.q": 0}})
    return collection.find_one({"_id": 5})["items"]  # type: ignore[index]


def _array_filters(collection: Collection[Any]) -> Any:
    collection.update_one(
        {"_id": 5}, {"$inc": {"items.$[big].q": 1}}, array_filters=[{"big.q": {"$gt": 5}}]
    )
    return collection.find_one({"_id": 5})["items"]  # type: ignore[index]


def _set_on_update_id(collection: Collection[Any]) -> Any:
    collection.replace_one({"_id": 1}, {"_id": 2, "v": 1})


NEW = ReturnDocument.AFTER
CALLS: dict[str, tuple[Documents, Call, Any]] = {
    "insert, same id": (PEOPLE, _find_and("insert_one", {"_id": 1}), Refused(11000)),
    "insert many, unordered": (PEOPLE, _unordered, (1, 6)),
    "upsert": ([], _upsert, (True, 0, {"k": 1, "v": 2, "w": 3})),
    "bulk write": (PEOPLE, _bulk, (1, 1, 1, 1)),
    "unique index": ([], _unique, Refused(11000)),
    "unique index of two fields": ([], _unique_pair, Refused(11000)),
    "unique index, sparse": ([], _unique_sparse, 2),
    "unique index, partial": ([], _unique_partial, 2),
    "unique index, two absent": ([], _unique_null, Refused(11000)),
    "unique index, update": (PEOPLE, _unique_update, Refused(11000)),
    "unique index over duplicates": (
        [{"a": 1}, {"a": 1}],
        _find_and("create_index", "a", unique=True),
        Refused(11000),
    ),
    "index names": (PEOPLE, _index_names, (["_id_", "age_-1_name_1", "by_tags"], 60)),
    "drop an index": (PEOPLE, _index_dropped, ["_id_"]),
    "drop an unknown index": (PEOPLE, _find_and("drop_index", "nope"), Refused(27)),
    "abort a transaction": (PEOPLE, _transaction, 0),
    "update many": (PEOPLE, _counts("update_many", {"age": 31}, {"$set": {"x": 1}}), (2, 2)),
    "update, nothing changed": (
        PEOPLE,
        _counts("update_one", {"_id": 2}, {"$set": {"age": 25}}),
        (1, 0),
    ),
    "replace": (PEOPLE, _counts("replace_one", {"_id": 1}, {"v": 1}), (1, 1)),
    "replace, another _id": (PEOPLE, _set_on_update_id, Refused(66)),
    "delete one": (PEOPLE, _counts("delete_one", {"age": 31}), 1),
    "delete many": (PEOPLE, _counts("delete_many", {"age": 31}), 2),
    "find and update, before": (
        [{"_id": 1, "n": 1}],
        _find_and("find_one_and_update", {}, {"$inc": {"n": 1}}),
        {"_id": 1, "n": 1},
    ),
    "find and update, after": (
        [{"_id": 1, "n": 1}],
        _find_and("find_one_and_update", {}, {"$inc": {"n": 1}}, return_document=NEW),
        {"_id": 1, "n": 2},
    ),
    "find and update, upsert": (
        [],
        _find_and(
            "find_one_and_update", {"_id": 7}, {"$inc": {"n": 1}}, upsert=True, return_document=NEW
        ),
        {"_id": 7, "n": 1},
    ),
    "find and update, sorted": (
        PEOPLE,
        _find_and(
            "find_one_and_update",
            {"age": 31},
            {"$set": {"x": 1}},
            sort=[("_id", -1)],
            projection={"_id": 1},
        ),
        {"_id": 5},
    ),
    "find and replace": (
        [{"_id": 1, "n": 1}],
        _find_and("find_one_and_replace", {}, {"m": 2}, return_document=NEW),
        {"_id": 1, "m": 2},
    ),
    "find and delete": (
        [{"_id": 1, "n": 1}],
        _find_and("find_one_and_delete", {}),
        {"_id": 1, "n": 1},
    ),
    "find and delete, none": ([], _find_and("find_one_and_delete", {}), None),
    "count": (PEOPLE, _find_and("count_documents", {"age": {"$gt": 1}}), 3),
    "count, limited": (PEOPLE, _find_and("count_documents", {}, limit=2), 2),
    "estimated count": (PEOPLE, _find_and("estimated_document_count"), 5),
    "distinct": (PEOPLE, lambda c: sorted(c.distinct("tags")), ["a", "b", "c", "d"]),
    "distinct with a query": (PEOPLE, lambda c: c.distinct("name", {"age": 25}), ["bob"]),
    "sort by two": (
        PEOPLE,
        lambda c: [d["_id"] for d in c.find().sort([("age", -1), ("_id", -1)])],
        [5, 1, 2, 4, 3],
    ),
    "sort, skip, limit": (
        PEOPLE,
        lambda c: [d["_id"] for d in c.find().sort("_id", -1).skip(1).limit(2)],
        [4, 3],
    ),
    "sort by case": (
        PEOPLE,
        lambda c: [d["_id"] for d in c.find().sort("name", 1)],
        [1, 3, 4, 5, 2],
    ),
    "sort with collation": (
        PEOPLE,
        lambda c: [d["_id"] for d in c.find().sort("name", 1).collation({"locale": "en"})],
        [1, 2, 3, 4, 5],
    ),
    "sort across types": (
        [
            {"_id": 1, "v": "a"},
            {"_id": 2, "v": 5},
            {"_id": 3, "v": None},
            {"_id": 4, "v": {"x": 1}},
            {"_id": 5, "v": True},
            {"_id": 6, "v": DAY},
            {"_id": 7, "v": OID},
            {"_id": 8, "v": b"x"},
        ],
        _sorted_types,
        [3, 2, 1, 4, 8, 7, 5, 6],
    ),
    "projection": (
        PEOPLE,
        lambda c: c.find_one({"_id": 1}, {"name": 1, "at.city": 1}),
        {"_id": 1, "name": "Ann", "at": {"city": "Oslo"}},
    ),
    "projection, excluded": (
        PEOPLE,
        lambda c: c.find_one({"_id": 2}, {"tags": 0, "at": 0}),
        {"_id": 2, "name": "bob", "age": 25},
    ),
    "projection $slice": (
        PEOPLE,
        lambda c: c.find_one({"_id": 4}, {"tags": {"$slice": -2}, "name": 0, "score": 0}),
        {"_id": 4, "tags": ["c", "d"]},
    ),
    "projection $elemMatch": (
        PEOPLE,
        lambda c: c.find_one({"_id": 5}, {"items": {"$elemMatch": {"n": 2}}}),
        {"_id": 5, "items": [{"n": 2, "q": 9}]},
    ),
    "projection, mixed": (PEOPLE, _find_and("find_one", {}, {"name": 1, "age": 0}), Refused(31254)),
    "more than one batch": ([], _cursor, sum(range(350))),
    "positional $": (PEOPLE, _positional, [{"n": 1, "q": 5}, {"n": 2, "q": 0}]),
    "array filters": (PEOPLE, _array_filters, [{"n": 1, "q": 5}, {"n": 2, "q": 10}]),
    "rename a collection": (PEOPLE, _rename, (5, 0)),
    "list collections": (PEOPLE, _collections, True),
    "fields keep their order": (
        [{"_id": 1, "z": 1, "a": 2, "m": 3}],
        lambda c: list(c.find_one()),
        ["_id", "z", "a", "m"],
    ),
    "milliseconds of dates": (
        [{"_id": 1, "v": datetime(2024, 1, 1, 0, 0, 0, 123999, tzinfo=UTC)}],
        lambda c: one(c)["v"],
        datetime(2024, 1, 1, 0, 0, 0, 123000, tzinfo=UTC),
    ),
    "dates are compared": (
        [{"_id": 1, "v": DAY}],
        finding({"v": {"$gte": DAY, "$lt": DAY + timedelta(1)}}),
        [1],
    ),
    "Decimal128 is a number": ([{"_id": 1, "v": Decimal128("2.50")}], finding({"v": 2.5}), [1]),
    "Decimal128 is compared": (
        [{"_id": 1, "v": Decimal128("10")}],
        finding({"v": {"$gt": Decimal128("9")}}),
        [1],
    ),
    "min and max keys": (
        [{"_id": 1, "v": MinKey()}, {"_id": 2, "v": MaxKey()}],
        _sorted_types,
        [1, 2],
    ),
    "timestamp": ([{"_id": 1, "v": Timestamp(5, 6)}], finding({"v": Timestamp(5, 6)}), [1]),
    "$in of ObjectIds": ([{"_id": OID}], finding({"_id": {"$in": [OID, ObjectId()]}}), [OID]),
    "$in of UUIDs": ([{"_id": UUID4}], finding({"_id": {"$in": [UUID4]}}), [UUID4]),
    "ObjectId range": ([{"_id": OID}], finding({"_id": {"$gt": ObjectId("0" * 24)}}), [OID]),
    "insert, update, read Decimal128": (
        [{"_id": 1, "v": Decimal128("1.1")}],
        update({"$set": {"v": Decimal128(Decimal("2.20"))}}, {"v": Decimal128("1.1")}),
        {"v": Decimal128("2.20")},
    ),
    "binary of a subtype": (
        [{"_id": 1, "v": Binary(b"x", 128)}],
        lambda c: one(c)["v"],
        Binary(b"x", 128),
    ),
    "a DBRef by its $id": (
        [{"_id": 1, "to": {"$ref": "other", "$id": OID}}],
        finding({"to.$id": OID}),
        [1],
    ),
    "a name with a dollar inside": ([{"_id": 1, "a$b": 1}], finding({"a$b": 1}), [1]),
}

COUNTED = "function(){return 1}"
JAVASCRIPT = {"body": COUNTED, "args": [], "lang": "js"}
# Operations of MongoDB that the embedded server refuses.
NOT_EMBEDDED: dict[str, tuple[Call, Any]] = {
    "text index": (_find_and("create_index", [("name", "text")]), "name_text"),
    "hashed index": (_find_and("create_index", [("name", "hashed")]), "name_hashed"),
    "$where": (finding({"$where": "this._id == 1"}), [1]),
    "$function": (computed({"$function": JAVASCRIPT}), 1.0),
}

OPERATIONS: tuple[Operation, ...] = (
    *(round_trip(value) for value in VALUES),
    *(by_value(value) for value in VALUES if value is not None and not isinstance(value, list)),
    *(by_id(value) for value in (1, "text", OID, UUID4, DAY, Decimal128("1.5"), {"a": 1, "b": 2})),
    *(
        Operation(f"query: {name}", PEOPLE, finding(query), expected)
        for name, (query, expected) in QUERIES.items()
    ),
    *(
        Operation(f"update: {name}", [before], update(change), after)
        for name, (before, change, after) in UPDATES.items()
    ),
    *(
        Operation(f"expression: {name}", [document], computed(expression), expected)
        for name, (document, expression, expected) in EXPRESSIONS.items()
    ),
    *(
        Operation(f"pipeline: {name}", SALES, call, expected)
        for name, (call, expected) in PIPELINES.items()
    ),
    *(
        Operation(f"call: {name}", documents, call, expected)
        for name, (documents, call, expected) in CALLS.items()
    ),
    *(
        Operation(f"not embedded: {name}", PEOPLE, call, expected)
        for name, (call, expected) in NOT_EMBEDDED.items()
    ),
)
