"""What a bucket answers, in our words. No key, address or signature is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError, PartialCredentialsError
from s3transfer.exceptions import RetriesExceededError

from distill.errors import StillhouseError, StorageUnavailable, StorageUnreachable

_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403")
_ABSENT = ("NoSuchBucket", "404")
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


class Taken(StillhouseError):
    """It was to be written only if nothing was there, and something is."""


@contextmanager
def bucket_errors() -> Iterator[None]:
    """Raises StorageUnavailable for all that may pass, or that the operator can mend, so that it is done again; and Taken."""
    try:
        yield
    except ClientError as error:
        raise _answered(error.response["Error"].get("Code", "")) from None
    except (NoCredentialsError, PartialCredentialsError):
        message = "there are no keys for the bucket of the blob store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StorageUnavailable(message) from None
    except (ConnectionError, HTTPClientError) as error:
        raise StorageUnreachable(f"the bucket of the blob store does not answer ({type(error).__name__})") from None
    except (BotoCoreError, Boto3Error, RetriesExceededError) as error:
        raise StorageUnavailable(f"the bucket of the blob store cannot be used ({type(error).__name__})") from None


def _answered(code: str) -> StillhouseError:
    if code in _TAKEN:
        return Taken("taken")
    if code in _REFUSED:
        return StorageUnavailable(f"the bucket of the blob store refuses our keys ({code})")
    if code in _ABSENT:
        return StorageUnavailable("the bucket of the blob store does not exist: make it, or correct [blobs] bucket")
    return StorageUnavailable(f"the bucket of the blob store answers {code}")
