"""Clients that come to NATS one after another, as long as this runs. Runs with the Python clients' packages.

It reads JSON from standard input: the authority's file (`ca`) and a token (`acme`). At SIGTERM it prints, as one line of JSON,
how many came in and what the others were told.
"""

import asyncio
import json
import signal
import ssl
import sys

import nats


async def main(told):
    context = ssl.create_default_context(cafile=told["ca"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    came, refused = 0, []

    async def quiet(error):
        pass

    while not stop.is_set():
        try:
            client = await nats.connect(
                "tls://localhost:4222", user="any", password=told["acme"], tls=context, allow_reconnect=False, error_cb=quiet
            )
            await client.close()
            came += 1
        except (OSError, asyncio.TimeoutError, nats.errors.Error) as error:
            refused.append(repr(error))
        await asyncio.sleep(0.1)
    return {"came": came, "refused": refused}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))), flush=True)
