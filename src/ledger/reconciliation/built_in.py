"""The layouts of the processors' reports."""

from ledger.reconciliation.layouts import Kind, Layout, Presented, Template, columns_of, templates

_KINDS_WITH_FEES = (
    Kind.CHARGE,
    Kind.CHARGE_REVERSAL,
    Kind.REFUND,
    Kind.REFUND_REVERSAL,
    Kind.DISPUTE,
    Kind.DISPUTE_REVERSAL,
)

_STRIPE_KINDS = {
    "charge": Kind.CHARGE,
    "payment": Kind.CHARGE,
    "charge_failure": Kind.CHARGE_REVERSAL,
    "payment_failure": Kind.CHARGE_REVERSAL,
    "payment_reversal": Kind.CHARGE_REVERSAL,
    "refund": Kind.REFUND,
    "payment_refund": Kind.REFUND,
    "partial_capture_reversal": Kind.REFUND,
    "refund_failure": Kind.REFUND_REVERSAL,
    "payment_failure_refund": Kind.REFUND_REVERSAL,
    "dispute": Kind.DISPUTE,
    "dispute_reversal": Kind.DISPUTE_REVERSAL,
    "fee": Kind.FEE,
    "network_cost": Kind.FEE,
    "stripe_fee": Kind.FEE,
    "stripe_fx_fee": Kind.FEE,
    "tax_fee": Kind.FEE,
    "application_fee": Kind.OTHER,
    "tax": Kind.TAX,
    "tax_withholding": Kind.TAX,
    "reserve_transaction": Kind.RESERVE,
    "reserved_funds": Kind.RESERVE,
    "risk_reserved_funds": Kind.RESERVE,
    "connect_reserved_funds": Kind.RESERVE,
    "payout": Kind.PAYOUT,
    "payout_reversal": Kind.PAYOUT,
    "payout_failure": Kind.PAYOUT,
    "payout_cancel": Kind.PAYOUT,
}


def _stripe(
    name: str,
    title: str,
    *,
    required: tuple[str, ...],
    group: str = "",
    row: str = "balance_transaction_id",
    source: str = "source_id",
    kind: str = "reporting_category",
    gross: str = "gross",
    occurred_at: tuple[tuple[str, str], ...] = (("created_utc", "UTC"), ("created", "")),
) -> Layout:
    return Layout(
        name=name,
        title=title,
        event_prefix="stripe:",
        required=required,
        kind=(kind,),
        kinds=_STRIPE_KINDS,
        currency="currency",
        gross=columns_of(gross),
        fee=columns_of("fee"),
        net=columns_of("net"),
        presented=Presented(
            gross=columns_of("customer_facing_amount"),
            currency="customer_facing_currency",
            rate="",
        ),
        occurred_at=occurred_at,
        row_id=templates(f"{{{row}}}"),
        references=(source, "charge_id", "payment_intent_id"),
        group=Template(group),
        payouts_close_groups=bool(group),
        events={
            Kind.CHARGE: templates(f"stripe:{{{source}}}", "stripe:{charge_id}"),
            Kind.CHARGE_REVERSAL: templates(
                f"stripe:{{{source}}}:failed", f"stripe:{{{source}}}:reversed", f"stripe:{{{row}}}"
            ),
            Kind.REFUND: templates(f"stripe:{{{source}}}"),
            Kind.REFUND_REVERSAL: templates(f"stripe:{{{source}}}:failed"),
            Kind.DISPUTE: templates(f"stripe:{{{source}}}:opened"),
            Kind.DISPUTE_REVERSAL: templates(f"stripe:{{{source}}}:won"),
            Kind.FEE: templates(f"stripe:{{{row}}}:fee", f"stripe:{{{source}}}"),
            Kind.TAX: templates(f"stripe:{{{row}}}:tax", f"stripe:{{{source}}}"),
            Kind.RESERVE: templates(f"stripe:{{{source}}}", f"stripe:{{{row}}}"),
            Kind.OTHER: templates(f"stripe:{{{row}}}"),
            # By the row, since a payout that came back has two.
            Kind.PAYOUT: templates(
                f"stripe:{{{row}}}:settled", f"stripe:{{{source}}}:settled", f"stripe:{{{source}}}"
            ),
        },
        fee_events={
            **{kind: templates(f"stripe:{{{row}}}:fee") for kind in _KINDS_WITH_FEES},
            Kind.DISPUTE_REVERSAL: templates(
                f"stripe:{{{source}}}:fee_refunded", f"stripe:{{{row}}}:fee"
            ),
        },
        owners=templates("stripe:{charge_id}"),
    )


STRIPE_PAYOUT = _stripe(
    "stripe-payout",
    "Stripe payout reconciliation",
    required=(
        "automatic_payout_id",
        "balance_transaction_id",
        "currency",
        "gross",
        "fee",
        "net",
        "reporting_category",
        "source_id",
        "automatic_payout_effective_at_utc",
    ),
    group="{automatic_payout_id}",
)
STRIPE_BALANCE = _stripe(
    "stripe-balance",
    "Stripe balance transactions",
    required=("balance_transaction_id", "currency", "net", "reporting_category", "source_id"),
)
STRIPE_EXPORT = _stripe(
    "stripe-export",
    "Stripe balance history, as its dashboard exports it",
    required=("id", "Type", "Source", "Amount", "Fee", "Net", "Currency"),
    row="id",
    source="Source",
    kind="Type",
    gross="Amount",
    occurred_at=(("Created (UTC)", "UTC"), ("Created", "")),
)

_ADYEN_KINDS = {
    "settled": Kind.CHARGE,
    "settledbulk": Kind.CHARGE,
    "settledexternally": Kind.CHARGE,
    "settledexternallywithinfo": Kind.CHARGE,
    "settledininstallments": Kind.CHARGE,
    "settledinstallment": Kind.CHARGE,
    "settledreversed": Kind.CHARGE_REVERSAL,
    "capturefailed": Kind.CHARGE_REVERSAL,
    "refunded": Kind.REFUND,
    "refundedbulk": Kind.REFUND,
    "refundedexternally": Kind.REFUND,
    "refundedexternallywithinfo": Kind.REFUND,
    "refundedreversed": Kind.REFUND_REVERSAL,
    "chargeback": Kind.DISPUTE,
    "chargebackexternally": Kind.DISPUTE,
    "chargebackexternallywithinfo": Kind.DISPUTE,
    "secondchargeback": Kind.DISPUTE,
    "chargebackreversed": Kind.DISPUTE_REVERSAL,
    "chargebackreversedexternallywithinfo": Kind.DISPUTE_REVERSAL,
    "fee": Kind.FEE,
    "invoicededuction": Kind.FEE,
    "misccosts": Kind.FEE,
    "paymentcost": Kind.FEE,
    "advancementcommissionfeeadjustment": Kind.FEE,
    "reserveadjustment": Kind.RESERVE,
    "merchantpayout": Kind.PAYOUT,
    "merchantpayin": Kind.PAYOUT,
    "payout": Kind.PAYOUT,
}


def _adyen(*codes: str) -> tuple[Template, ...]:
    """Candidates by the modification's reference, then by the payment's."""
    return templates(
        *(f"adyen:{{Modification Reference}}:{code}" for code in codes),
        *(f"adyen:{{Psp Reference}}:{code}" for code in codes),
    )


# A fee or a payout has no reference of its own: its batch and a hash of the row name it.
_ADYEN_BATCH = "adyen:{Merchant Account}.{Batch Number}:{row_hash}"

ADYEN_SETTLEMENT = Layout(
    name="adyen-settlement",
    title="Adyen settlement detail",
    event_prefix="adyen:",
    required=("Psp Reference", "Type", "Net Currency", "Net Debit (NC)", "Net Credit (NC)"),
    kind=("Type",),
    kinds=_ADYEN_KINDS,
    currency="Net Currency",
    net=columns_of("Net Credit (NC)", "-Net Debit (NC)"),
    fee=columns_of("Commission (NC)", "Markup (NC)", "Scheme Fees (NC)", "Interchange (NC)"),
    presented=Presented(
        gross=columns_of("Gross Credit (GC)", "-Gross Debit (GC)"),
        currency="Gross Currency",
        rate="Exchange Rate",
    ),
    occurred_at=(("Creation Date", ""),),
    zone_column="TimeZone",
    references=(
        "Psp Reference",
        "Modification Reference",
        "Merchant Reference",
        "Modification Merchant Reference",
    ),
    group=Template("{Merchant Account}/{Batch Number}"),
    payouts_close_groups=True,
    events={
        Kind.CHARGE: (
            *templates("adyen:{Modification Reference}:CAPTURE", "adyen:{Psp Reference}:CAPTURE"),
            *templates("adyen:{Psp Reference}:AUTHORISATION"),
        ),
        Kind.CHARGE_REVERSAL: _adyen("CAPTURE_FAILED"),
        Kind.REFUND: _adyen("REFUND", "CANCEL_OR_REFUND", "VOID_PENDING_REFUND"),
        Kind.REFUND_REVERSAL: _adyen("REFUNDED_REVERSED", "REFUND_FAILED"),
        Kind.DISPUTE: _adyen("CHARGEBACK", "SECOND_CHARGEBACK"),
        Kind.DISPUTE_REVERSAL: _adyen("CHARGEBACK_REVERSED"),
        Kind.FEE: templates(f"{_ADYEN_BATCH}:fee", "adyen:{row_hash}:fee"),
        Kind.RESERVE: templates(f"{_ADYEN_BATCH}:reserve", "adyen:{row_hash}:reserve"),
        Kind.PAYOUT: templates(f"{_ADYEN_BATCH}:settled", "adyen:{row_hash}:settled"),
    },
    fee_events={
        kind: templates("adyen:{Modification Reference}:fee", "adyen:{Psp Reference}:fee")
        for kind in _KINDS_WITH_FEES
    },
)

_MERCADO_PAGO_EVENTS = {
    Kind.CHARGE: templates("mp:{SOURCE_ID}:approved"),
    Kind.CHARGE_REVERSAL: templates("mp:{SOURCE_ID}:reversed"),
    Kind.REFUND: templates("mp:refund:{SOURCE_ID}"),
    Kind.REFUND_REVERSAL: templates("mp:refund:{SOURCE_ID}:failed"),
    Kind.DISPUTE: templates("mp:chargeback:{SOURCE_ID}:opened", "mp:chargeback:{SOURCE_ID}"),
    Kind.DISPUTE_REVERSAL: templates("mp:chargeback:{SOURCE_ID}:won"),
    Kind.FEE: templates("mp:{SOURCE_ID}:{row_hash}:fee", "mp:{row_hash}:fee"),
    Kind.TAX: templates("mp:{SOURCE_ID}:tax", "mp:{row_hash}:tax"),
    Kind.RESERVE: templates("mp:{SOURCE_ID}:{row_hash}:reserve", "mp:{row_hash}:reserve"),
    Kind.PAYOUT: templates("mp:{SOURCE_ID}:settled", "mp:{row_hash}:settled"),
}
_MERCADO_PAGO_FEES = {
    Kind.CHARGE: templates("mp:{SOURCE_ID}:fee"),
    Kind.REFUND: templates("mp:refund:{SOURCE_ID}:fee"),
}
_MERCADO_PAGO_ID_COLUMNS = ("ORDER_ID", "SHIPPING_ID", "PACK_ID")

MERCADO_PAGO_SETTLEMENT = Layout(
    name="mercadopago-settlement",
    title="Mercado Pago settlement",
    event_prefix="mp:",
    required=(
        "SOURCE_ID",
        "TRANSACTION_TYPE",
        "TRANSACTION_AMOUNT",
        "FEE_AMOUNT",
        "SETTLEMENT_NET_AMOUNT",
    ),
    kind=("TRANSACTION_TYPE",),
    kinds={
        "settlement": Kind.CHARGE,
        "refund": Kind.REFUND,
        "chargeback": Kind.DISPUTE,
        "dispute": Kind.DISPUTE,
        "fee": Kind.FEE,
        "payout": Kind.PAYOUT,
        "payouts": Kind.PAYOUT,
        "withdrawal": Kind.PAYOUT,
        "withdrawal_cancel": Kind.PAYOUT,
    },
    currency="SETTLEMENT_CURRENCY",
    net=columns_of("SETTLEMENT_NET_AMOUNT"),
    fee=columns_of("-FEE_AMOUNT"),
    tax=columns_of("-TAXES_AMOUNT"),
    presented=Presented(
        gross=columns_of("TRANSACTION_AMOUNT"), currency="TRANSACTION_CURRENCY", rate=""
    ),
    occurred_at=(("TRANSACTION_DATE", ""), ("SETTLEMENT_DATE", "")),
    references=("SOURCE_ID", "EXTERNAL_REFERENCE", "ORDER_ID"),
    events=_MERCADO_PAGO_EVENTS,
    fee_events=_MERCADO_PAGO_FEES,
    id_columns=_MERCADO_PAGO_ID_COLUMNS,
)

_RELEASED = {
    "payment": Kind.CHARGE,
    "refund": Kind.REFUND,
    "chargeback": Kind.DISPUTE,
    "dispute": Kind.DISPUTE,
    "mediation": Kind.DISPUTE,
    "mediation_cancel": Kind.DISPUTE,
    "fee_release_in_advance": Kind.FEE,
    "tax_withholding": Kind.TAX,
    "tax_withholding_cancel": Kind.TAX,
    # As the reports of some countries spell it.
    "tax_withdholding": Kind.TAX,
    "tax_withdholding_cancel": Kind.TAX,
    "payout": Kind.PAYOUT,
    "payouts": Kind.PAYOUT,
    "withdrawal": Kind.PAYOUT,
}

MERCADO_PAGO_RELEASE = Layout(
    name="mercadopago-release",
    title="Mercado Pago releases",
    event_prefix="mp:",
    required=(
        "DATE",
        "SOURCE_ID",
        "RECORD_TYPE",
        "DESCRIPTION",
        "NET_CREDIT_AMOUNT",
        "NET_DEBIT_AMOUNT",
    ),
    kind=("RECORD_TYPE", "DESCRIPTION"),
    kinds={
        **{f"release/{word}": kind for word, kind in _RELEASED.items()},
        "initial_available_balance/*": Kind.OPENING,
        "available_balance/*": Kind.IGNORED,
        "subtotal/*": Kind.IGNORED,
        "total/*": Kind.TOTAL,
        "block/*": Kind.RESERVE,
        "unblock/*": Kind.RESERVE,
        "fullblock/*": Kind.RESERVE,
    },
    currency="CURRENCY",
    net=columns_of("NET_CREDIT_AMOUNT", "-NET_DEBIT_AMOUNT"),
    gross=columns_of("GROSS_AMOUNT"),
    tax=columns_of("-TAXES_AMOUNT"),
    occurred_at=(("DATE", ""),),
    has_event_dates=False,
    references=("SOURCE_ID", "EXTERNAL_REFERENCE", "ORDER_ID"),
    events=_MERCADO_PAGO_EVENTS,
    fee_events=_MERCADO_PAGO_FEES,
    id_columns=_MERCADO_PAGO_ID_COLUMNS,
)

LAYOUTS = (
    STRIPE_PAYOUT,
    STRIPE_BALANCE,
    STRIPE_EXPORT,
    ADYEN_SETTLEMENT,
    MERCADO_PAGO_SETTLEMENT,
    MERCADO_PAGO_RELEASE,
)
LAYOUT_BY_NAME = {layout.name: layout for layout in LAYOUTS}
