"""Records: a hundred per call, and what became of those that were merged away."""

from typing import Any

import msgspec
import pytest

from aiotasks import (
    Client,
    CompanyProfile,
    ConfigurationError,
    DecodeError,
    MergedEntityError,
    NotFoundError,
    PersonProfile,
    Record,
)
from aiotasks.sandbox import Fault
from tests.servers import Recorded


@pytest.mark.parametrize(("count", "requests"), [(0, 0), (1, 1), (100, 1), (101, 2), (250, 3)])
async def test_records_are_read_a_hundred_per_call(
    sandbox: Recorded, client: Client, count: int, requests: int
) -> None:
    """Any number of records costs one call per hundred."""
    ids = range(1, count + 1)
    assert [record.profile.id async for record in client.companies.records(ids)] == [*ids]
    assert sandbox.calls["records"] == sandbox.requests == requests


async def test_a_record_has_its_profile_and_all_that_the_api_sent(client: Client) -> None:
    """The profile names the record; its json keeps fields that this version does not know."""
    record = await client.companies.get_record(1)
    assert isinstance(record.profile, CompanyProfile)
    assert record.profile.label == "Amber Analytics (amber-analytics.example)"
    assert msgspec.json.decode(record.json)["domains"] == ["amber-analytics.example"]
    assert [each async for each in client.companies.records([1])] == [record]


async def test_persons_are_records_too(client: Client) -> None:
    """A person is named by name and email address."""
    record = await client.persons.get_record(1)
    assert isinstance(record.profile, PersonProfile)
    assert record.profile.label == "Ada Abbott (ada.abbott@amber-analytics.example)"


async def test_the_data_of_fields_is_requested(sandbox: Recorded, client: Client) -> None:
    """The types of fields are named in the request, as a record would come without their data."""
    _ = [each async for each in client.companies.records([3, 4])]
    _ = await client.companies.get_record(3)
    types = "fieldTypes=enriched&fieldTypes=global&fieldTypes=relationship-intelligence"
    assert [request.path for request in sandbox.log] == [
        f"/v2/companies?limit=100&ids=3&ids=4&{types}",
        f"/v2/companies/3?{types}",
    ]


@pytest.mark.plain
async def test_records_that_are_gone_are_left_out_and_explained(
    sandbox: Recorded, client: Client
) -> None:
    """A record that was merged away or never existed is left out; a GET of it says which."""
    _ = sandbox.start_merge("company", 1, 2, duration=0.0)
    listed = client.companies.records([1, 2, 999_999])
    assert [record.profile.id async for record in listed] == [1]
    with pytest.raises(MergedEntityError) as merged:
        await client.companies.get_record(2)
    assert (merged.value.source_id, merged.value.target_id) == (2, 1)
    with pytest.raises(NotFoundError):
        await client.companies.get_record(999_999)


@pytest.mark.parametrize("number", [0, -1, "1", True, 2**63])
async def test_ids_are_checked(sandbox: Recorded, client: Client, number: Any) -> None:
    """An invalid id is refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        await client.companies.get_record(number)
    with pytest.raises(ConfigurationError):
        _ = [each async for each in client.companies.records([number])]
    assert sandbox.requests == 0


async def test_a_page_without_records_is_an_error(sandbox: Recorded, client: Client) -> None:
    """A page without records raises a DecodeError."""
    sandbox.inject(Fault.content(b'{"data": [{"name": "no id"}]}'), on="records")
    with pytest.raises(DecodeError, match="a company in it is none"):
        _ = [each async for each in client.companies.records([1])]


@pytest.mark.parametrize(
    ("profile", "label"),
    [
        (CompanyProfile(id=1, name="Amber"), "Amber"),
        (CompanyProfile(id=1, domain="amber.example"), "without a name (amber.example)"),
        (PersonProfile(id=1), "without a name"),
        (PersonProfile(id=1, last_name="Abbott"), "Abbott"),
    ],
)
def test_labels_of_incomplete_profiles(profile: Any, label: str) -> None:
    """A record can be named even if some of its data is missing."""
    assert profile.label == label
    assert Record(profile=profile, json=b"{}").profile is profile
