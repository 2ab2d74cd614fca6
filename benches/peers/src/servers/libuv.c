/* An echo server with libuv, written after its guide and then tuned: one buffer for all reads,
 * frames parsed in place, and one uv_try_write per read.
 *
 *   read -> input (one for all) -> frames in place -> output (one for all) -> uv_try_write
 *                             \-> partial frame                         \-> uv_write: the rest
 *
 * The rest of a long partial frame is read directly into the buffer of that frame. If memory cannot
 * be allocated, the program ends, as a Rust program does. An error of the library ends the
 * connection; during start-up, it ends the program.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* User's code: returns the reply to a frame. The reply is as long as the frame. */
typedef const char *(*on_frame_cb)(const char *frame, size_t len);
/* Prints the server's port for the parent process; returns zero on success. */
typedef int (*announce_cb)(uint16_t port);

enum {
    INPUT_LEN = 256 * 1024,
    PREFIX_LEN = 4,
    /* If at least this many bytes of a partial frame have arrived, the next read writes directly
     * into the buffer of the frame. That read has space for at least this many bytes. */
    DIRECT_LEN = 64 * 1024,
    BACKLOG = 4096,
    /* Maximum length that uv__udp_recvmmsg can use in one call: 20 datagrams of up to 64 KiB. */
    DATAGRAMS_LEN = 20 * 64 * 1024,
    UDP_BUFFER_LEN = 1 << 22,
};

struct bytes {
    char *data;
    size_t len;
    size_t capacity;
};

struct connection {
    uv_tcp_t tcp;
    /* Bytes of a partial frame; without a partial frame it owns no memory. */
    struct bytes partial;
};

struct write {
    uv_write_t request;
    char data[];
};

static on_frame_cb on_frame;
static char *input;
static struct bytes output;

static void *checked(void *memory) {
    if (memory == NULL) abort();
    return memory;
}

static void reserve(struct bytes *bytes, size_t additional) {
    size_t wanted = bytes->len + additional;
    if (wanted <= bytes->capacity) return;
    if (wanted < 2 * bytes->capacity) wanted = 2 * bytes->capacity;
    bytes->data = checked(realloc(bytes->data, wanted));
    bytes->capacity = wanted;
}

static void append(struct bytes *bytes, const char *data, size_t len) {
    reserve(bytes, len);
    memcpy(bytes->data + bytes->len, data, len);
    bytes->len += len;
}

/* Removes the first bytes and keeps the rest; frees the memory if nothing is left. */
static void consume(struct bytes *bytes, size_t len) {
    bytes->len -= len;
    if (bytes->len > 0) {
        memmove(bytes->data, bytes->data + len, bytes->len);
    } else {
        free(bytes->data);
        *bytes = (struct bytes){0};
    }
}

/* Appends the echoes of all whole frames to the output. Returns the length of these frames. */
static size_t echo(const char *bytes, size_t len) {
    size_t consumed = 0;
    while (len - consumed >= PREFIX_LEN) {
        const unsigned char *prefix = (const unsigned char *)bytes + consumed;
        size_t frame_len = (size_t)prefix[0] << 24 | (size_t)prefix[1] << 16
            | (size_t)prefix[2] << 8 | prefix[3];
        if (len - consumed - PREFIX_LEN < frame_len) break;
        const char *answer = on_frame(bytes + consumed + PREFIX_LEN, frame_len);
        append(&output, bytes + consumed, PREFIX_LEN);
        append(&output, answer, frame_len);
        consumed += PREFIX_LEN + frame_len;
    }
    return consumed;
}

static void on_closed(uv_handle_t *handle) {
    struct connection *connection = (struct connection *)handle;
    free(connection->partial.data);
    free(connection);
}

static void end(struct connection *connection) {
    uv_handle_t *handle = (uv_handle_t *)&connection->tcp;
    if (!uv_is_closing(handle)) uv_close(handle, on_closed);
}

static void on_written(uv_write_t *request, int status) {
    if (status < 0) end((struct connection *)request->handle);
    free(request);
}

/* Writes as many bytes as the kernel accepts, and queues a copy of the other bytes. */
static void flush(struct connection *connection) {
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    uv_buf_t whole = uv_buf_init(output.data, (unsigned)output.len);
    int written = uv_try_write(stream, &whole, 1);
    if (written == UV_EAGAIN) written = 0;
    size_t left = output.len - (written < 0 ? 0 : (size_t)written);
    output.len = 0;
    if (written < 0) {
        end(connection);
    } else if (left > 0) {
        struct write *write = checked(malloc(sizeof *write + left));
        memcpy(write->data, output.data + written, left);
        uv_buf_t rest = uv_buf_init(write->data, (unsigned)left);
        if (uv_write(&write->request, stream, &rest, 1, on_written) < 0) {
            free(write);
            end(connection);
        }
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    struct bytes *partial = &((struct connection *)handle)->partial;
    if (partial->len >= DIRECT_LEN) {
        reserve(partial, DIRECT_LEN);
        size_t spare = partial->capacity - partial->len;
        *buf = uv_buf_init(partial->data + partial->len, (unsigned)spare);
    } else {
        *buf = uv_buf_init(input, INPUT_LEN);
    }
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf) {
    struct connection *connection = (struct connection *)stream;
    struct bytes *partial = &connection->partial;
    if (nread < 0) {
        end(connection);
        return;
    }
    size_t len = (size_t)nread;
    if (partial->len == 0) {
        size_t consumed = echo(buf->base, len);
        if (consumed < len) append(partial, buf->base + consumed, len - consumed);
    } else {
        if (buf->base == input) {
            append(partial, buf->base, len);
        } else {
            partial->len += len;
        }
        size_t consumed = echo(partial->data, partial->len);
        if (consumed > 0) consume(partial, consumed);
    }
    if (output.len > 0) flush(connection);
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0) return;
    struct connection *connection = checked(calloc(1, sizeof *connection));
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    uv_tcp_init(listener->loop, &connection->tcp);
    if (uv_accept(listener, stream) < 0 || uv_tcp_nodelay(&connection->tcp, 1) < 0
        || uv_read_start(stream, on_alloc, on_read) < 0) {
        end(connection);
    }
}

/* Returns from the function on an error of libuv, which is a negated system error. */
#define TRY(call) do { int status = (call); if (status < 0) return status; } while (0)

int peers_libuv_tcp(on_frame_cb user, announce_cb announce) {
    on_frame = user;
    input = checked(malloc(INPUT_LEN));
    uv_loop_t loop;
    uv_tcp_t listener;
    struct sockaddr_in addr;
    int addr_len = sizeof addr;
    TRY(uv_loop_init(&loop));
    TRY(uv_tcp_init(&loop, &listener));
    TRY(uv_ip4_addr("127.0.0.1", 0, &addr));
    TRY(uv_tcp_bind(&listener, (struct sockaddr *)&addr, 0));
    TRY(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection));
    TRY(uv_tcp_getsockname(&listener, (struct sockaddr *)&addr, &addr_len));
    TRY(announce(ntohs(addr.sin_port)));
    return uv_run(&loop, UV_RUN_DEFAULT);
}

static void on_datagrams_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)handle, (void)suggested;
    *buf = uv_buf_init(input, DATAGRAMS_LEN);
}

static void on_datagram(uv_udp_t *udp, ssize_t nread, const uv_buf_t *buf,
                        const struct sockaddr *from, unsigned flags) {
    (void)flags;
    /* A call without an address has no datagram: there is no more data, or the buffer is free. */
    if (nread < 0 || from == NULL) return;
    uv_buf_t answer = uv_buf_init((char *)on_frame(buf->base, (size_t)nread), (unsigned)nread);
    /* Ignore an error: the load detects that the datagram is missing. */
    uv_udp_try_send(udp, &answer, 1, from);
}

int peers_libuv_udp(on_frame_cb user, announce_cb announce) {
    on_frame = user;
    input = checked(malloc(DATAGRAMS_LEN));
    uv_loop_t loop;
    uv_udp_t udp;
    struct sockaddr_in addr;
    int addr_len = sizeof addr;
    int buffer_len = UDP_BUFFER_LEN;
    TRY(uv_loop_init(&loop));
    TRY(uv_udp_init_ex(&loop, &udp, AF_INET | UV_UDP_RECVMMSG));
    TRY(uv_ip4_addr("127.0.0.1", 0, &addr));
    TRY(uv_udp_bind(&udp, (struct sockaddr *)&addr, 0));
    TRY(uv_recv_buffer_size((uv_handle_t *)&udp, &buffer_len));
    TRY(uv_udp_recv_start(&udp, on_datagrams_alloc, on_datagram));
    TRY(uv_udp_getsockname(&udp, (struct sockaddr *)&addr, &addr_len));
    TRY(announce(ntohs(addr.sin_port)));
    return uv_run(&loop, UV_RUN_DEFAULT);
}
