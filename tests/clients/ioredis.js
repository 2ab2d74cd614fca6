// Tests the resp example with ioredis, in both versions of the protocol: commands, a pipeline, and
// publish and subscribe.
// usage: node ioredis.js HOST:PORT

const assert = require('node:assert');
const { createRequire } = require('node:module');

// The package is installed in the working directory, and not beside this file.
const require_here = createRequire(process.cwd() + '/');
const Redis = require_here('ioredis');

async function main() {
    const [host, port] = process.argv[2].split(':');
    for (const protocol of [2, 3]) {
        await check({ host, port: Number(port), protocol, commandTimeout: 60000 });
    }
    console.log('ok: ioredis', require_here('ioredis/package.json').version);
}

async function check(options) {
    const client = new Redis(options);
    assert.equal(await client.ping(), 'PONG');
    assert.equal(await client.set('js:text', 'hello\r\nworld'), 'OK');
    assert.equal(await client.get('js:text'), 'hello\r\nworld');
    assert.equal(await client.get('js:missing'), null);
    assert.equal(await client.rpush('js:list', 'a', 'b', 'c'), 3);
    assert.deepEqual(await client.lrange('js:list', 0, -1), ['a', 'b', 'c']);
    assert.equal(await client.hset('js:hash', { field: 'value', other: 1 }), 2);
    assert.deepEqual(await client.hgetall('js:hash'), { field: 'value', other: '1' });
    await assert.rejects(client.incr('js:text'), /not an integer/);

    const value = Buffer.alloc(1 << 20, Buffer.from([0, 13, 10, 255]));
    await client.set('js:binary', value);
    assert.ok((await client.getBuffer('js:binary')).equals(value));

    const pipeline = client.pipeline();
    for (let number = 0; number < 1000; number++) {
        pipeline.incrby('js:sum', number);
    }
    const replies = await pipeline.exec();
    assert.deepEqual(replies.at(-1), [null, (1000 * 999) / 2]);

    // All calls at once: ioredis matches each reply to its call by the order.
    const calls = Array.from({ length: 1000 }, (_, number) => client.set(`js:${number}`, number));
    assert.ok((await Promise.all(calls)).every((reply) => reply === 'OK'));

    const subscriber = new Redis(options);
    await subscriber.subscribe('js:news');
    const received = new Promise((resolve) => {
        const texts = [];
        subscriber.on('message', (channel, text) => {
            texts.push(text);
            if (texts.length === 100) {
                resolve(texts);
            }
        });
    });
    for (let number = 0; number < 100; number++) {
        assert.equal(await client.publish('js:news', String(number)), 1);
    }
    const expected = Array.from({ length: 100 }, (_, number) => String(number));
    assert.deepEqual(await received, expected);
    subscriber.disconnect();
    await client.flushall();
    client.disconnect();
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
