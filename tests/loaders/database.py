"""SQL for tests: statements run one after the other on a connection of their own."""

import asyncio

import asyncpg


def execute(url: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements; return the rows of the last."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetch(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())
