"""Payment events of the bank; each is processed once, however often it is delivered."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Request
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from vibetuner.errors import TaskError

from invoice_desk.tasks.payments import book_payment

router = APIRouter()


class BankSettings(BaseSettings):
    """The secret that the bank signs its events with."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    bank_secret: SecretStr


class Payment(BaseModel):
    """A payment, as the bank reports it."""

    event: str
    number: str


@router.post("/webhooks/payments", status_code=202)
async def paid(
    request: Request, payment: Payment, x_signature: Annotated[str, Header()] = ""
) -> dict[str, str]:
    """Enqueue the booking of a payment once for each event."""
    if not hmac.compare_digest(sign(await request.body()), x_signature.encode()):
        raise HTTPException(401, "The signature is not that of the body.")
    try:
        task = await book_payment.enqueue(payment.number).once(f"bank:{payment.event}")
    except TaskError as error:
        raise HTTPException(409, str(error)) from None
    return {"task_id": task.id}


def sign(body: bytes) -> bytes:
    """Return the signature that a delivery of this body must carry."""
    secret = BankSettings().bank_secret.get_secret_value()
    return hmac.new(secret.encode(), body, "sha256").hexdigest().encode()
