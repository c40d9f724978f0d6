"""The service of accounts: each method decodes, calls its use case, and encodes."""

from typing import Any

from grpc import aio

from ledger.api.convert import account_statements, accounts
from ledger.api.pages import Pages
from ledger.application.accounts import (
    create_account,
    get_account,
    list_accounts,
    update_account,
)
from ledger.application.get_account_balance import GetAccountBalance
from ledger.application.list_account_entries import list_account_entries
from ledger.application.ports.accounts import AccountReader
from ledger.application.ports.statements import AccountStatementQuery, Statements
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.v1 import account_pb2, account_pb2_grpc

Context = aio.ServicerContext[Any, Any]


class AccountService(account_pb2_grpc.AccountServiceServicer):
    """Implements `ledger.v1.AccountService`."""

    def __init__(
        self,
        *,
        accounts: AccountReader,
        get_account_balance: GetAccountBalance,
        statements: Statements[AccountStatementQuery],
        pages: Pages,
        begin: UnitOfWorkFactory,
    ) -> None:
        self._accounts = accounts
        self._get_account_balance = get_account_balance
        self._statements = statements
        self._pages = pages
        self._begin = begin

    async def CreateAccount(
        self, request: account_pb2.CreateAccountRequest, context: Context
    ) -> account_pb2.CreateAccountResponse:
        profile = accounts.decode_opening(request)
        return accounts.encode_opened_account(
            await create_account(self._begin, self._accounts, profile)
        )

    async def UpdateAccount(
        self, request: account_pb2.UpdateAccountRequest, context: Context
    ) -> account_pb2.UpdateAccountResponse:
        change = accounts.decode_account_change(request)
        account = await update_account(self._begin, self._accounts, change)
        return account_pb2.UpdateAccountResponse(account=accounts.encode_account(account))

    async def GetAccount(
        self, request: account_pb2.GetAccountRequest, context: Context
    ) -> account_pb2.GetAccountResponse:
        account = await get_account(self._accounts, accounts.decode_account_id(request))
        return account_pb2.GetAccountResponse(account=accounts.encode_account(account))

    async def ListAccounts(
        self, request: account_pb2.ListAccountsRequest, context: Context
    ) -> account_pb2.ListAccountsResponse:
        paging = await self._pages.paging(request, accounts.ACCOUNT_LISTING)
        page = await list_accounts(self._accounts, paging.after, paging.page_size)
        return accounts.encode_account_page(paging, page)

    async def GetAccountBalance(
        self, request: account_pb2.GetAccountBalanceRequest, context: Context
    ) -> account_pb2.GetAccountBalanceResponse:
        query = accounts.decode_account_balance_query(request)
        return accounts.encode_account_balance(await self._get_account_balance(query))

    async def ListAccountEntries(
        self, request: account_pb2.ListAccountEntriesRequest, context: Context
    ) -> account_pb2.ListAccountEntriesResponse:
        query = account_statements.decode_account_statement_query(request)
        paging = await self._pages.paging(
            request, account_statements.account_statement_listing(query)
        )
        page = await list_account_entries(self._statements, query, paging.after, paging.page_size)
        return account_statements.encode_account_statement_page(paging, page)
