/*
 * Fault injection for a program that preloads this library. It makes system calls fail in ways that
 * the manual pages allow: short reads and writes, EINTR, EAGAIN, and failures in the setup of new
 * connections. A seed determines the faults.
 *
 *   SHIM_SEED             seed of the random numbers
 *   SHIM_SHORT_PERCENT    percentage of stream reads and writes that are shortened
 *   SHIM_EINTR_PERCENT    percentage of calls that fail with EINTR
 *   SHIM_BLOCK_PERCENT    percentage of reads and writes that fail with EAGAIN
 *   SHIM_ACCEPT           results of accept in a cycle: errnos, 0 for success, for example "103,0"
 *   SHIM_SETSOCKOPT_EVERY every n-th setsockopt on an accepted socket fails with ENOBUFS
 *   SHIM_EPOLL_EVERY      registering every n-th accepted socket with epoll fails with ENOSPC
 *   SHIM_FAMILY           number of the only address family that exists: socket() fails with
 *                         EAFNOSUPPORT for any other
 *   SHIM_REPORT           file for the number of injected faults, written at exit
 *
 * After a short read or EAGAIN, a real kernel raises a new edge when more input or space is
 * available. To do the same, this library registers the descriptor again with its old events. Then
 * epoll reports the current readiness of the descriptor.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 65536
#define ACCEPTS 16

static struct {
    int watched;
    int accepted;
    int epoll;
    struct epoll_event event;
} fds[FDS];

static unsigned short_percent, eintr_percent, block_percent;
static unsigned setsockopt_every, epoll_every, family;
static int accepts[ACCEPTS];
static unsigned accepts_len;
static uint64_t state;
static struct {
    unsigned long shortened, interrupted, blocked, accept, setsockopt, epoll;
} done;

static unsigned number(const char *name)
{
    const char *value = getenv(name);
    return value ? (unsigned)strtoul(value, NULL, 10) : 0;
}

__attribute__((constructor)) static void begin(void)
{
    state = number("SHIM_SEED") * 2654435761u + 1;
    short_percent = number("SHIM_SHORT_PERCENT");
    eintr_percent = number("SHIM_EINTR_PERCENT");
    block_percent = number("SHIM_BLOCK_PERCENT");
    setsockopt_every = number("SHIM_SETSOCKOPT_EVERY");
    epoll_every = number("SHIM_EPOLL_EVERY");
    family = number("SHIM_FAMILY");
    const char *list = getenv("SHIM_ACCEPT");
    while (list && *list && accepts_len < ACCEPTS) {
        char *end;
        accepts[accepts_len++] = (int)strtol(list, &end, 10);
        list = *end ? end + 1 : end;
    }
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("SHIM_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file,
            "shortened %lu\ninterrupted %lu\nblocked %lu\naccept %lu\nsetsockopt %lu\nepoll %lu\n",
            done.shortened, done.interrupted, done.blocked, done.accept, done.setsockopt,
            done.epoll);
    fclose(file);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Not thread-safe: only the loop's thread makes calls that need random numbers. */
static unsigned below(unsigned bound)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 16) % bound;
}

/* Returns 1 with the given probability in per cent, otherwise 0. */
static int hits(unsigned percent)
{
    return percent && below(100) < percent;
}

static int type_of(int fd)
{
    int type = 0, kept = errno;
    socklen_t len = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
        type = 0;
    errno = kept;
    return type;
}

/* Registers a descriptor again with its old events, so that epoll reports its readiness. */
static void rearm(int fd)
{
    int epoll_ctl_real(int, int, int, struct epoll_event *);
    if (fd >= 0 && fd < FDS && fds[fd].watched) {
        int kept = errno;
        epoll_ctl_real(fds[fd].epoll, EPOLL_CTL_MOD, fd, &fds[fd].event);
        errno = kept;
    }
}

/* Returns 1 and sets errno if the call on a socket must fail before it does anything. */
static int fails(int fd, int type)
{
    if (!type)
        return 0;
    if (hits(eintr_percent)) {
        done.interrupted++;
        errno = EINTR;
        return 1;
    }
    if (hits(block_percent)) {
        done.blocked++;
        rearm(fd);
        errno = EAGAIN;
        return 1;
    }
    return 0;
}

/* Returns the number of bytes that the call may transfer. For some calls on a stream, the number is
 * random, smaller than `len`, and at most 8192 or at most 16. For all other calls, it is `len`. */
static size_t part(int type, size_t len)
{
    if (type != SOCK_STREAM || len < 2 || !hits(short_percent))
        return len;
    done.shortened++;
    size_t max = below(4) ? 8192 : 16;
    return 1 + below((unsigned)(len - 1 < max ? len - 1 : max));
}

/* Causes a new event if a shortened read left input in the socket. Returns `got`. */
static ssize_t read_done(int fd, size_t asked, size_t len, ssize_t got)
{
    int left = 0, kept = errno;
    if (asked < len && got > 0 && ioctl(fd, FIONREAD, &left) == 0 && left > 0)
        rearm(fd);
    errno = kept;
    return got;
}

int socket(int domain, int type, int protocol)
{
    REAL(socket);
    if (family && (unsigned)domain != family) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    return real(domain, type, protocol);
}

ssize_t read(int fd, void *buf, size_t len)
{
    REAL(read);
    int type = type_of(fd);
    if (fails(fd, type))
        return -1;
    size_t asked = part(type, len);
    return read_done(fd, asked, len, real(fd, buf, asked));
}

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    REAL(recv);
    int type = type_of(fd);
    if (fails(fd, type))
        return -1;
    size_t asked = part(type, len);
    return read_done(fd, asked, len, real(fd, buf, asked, flags));
}

ssize_t recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *addr,
                 socklen_t *addr_len)
{
    REAL(recvfrom);
    int type = type_of(fd);
    if (fails(fd, type))
        return -1;
    size_t asked = part(type, len);
    return read_done(fd, asked, len, real(fd, buf, asked, flags, addr, addr_len));
}

ssize_t write(int fd, const void *buf, size_t len)
{
    REAL(write);
    int type = type_of(fd);
    return fails(fd, type) ? -1 : real(fd, buf, part(type, len));
}

ssize_t send(int fd, const void *buf, size_t len, int flags)
{
    REAL(send);
    /* Calls with MSG_DONTWAIT never fail here. Only the signal handler of signal-hook makes such
     * calls: it sends one byte per signal. A kernel rejects this byte only while earlier bytes are
     * unread, and then the earlier bytes report the signal. An injected error would lose the
     * signal. */
    int type = flags & MSG_DONTWAIT ? 0 : type_of(fd);
    return fails(fd, type) ? -1 : real(fd, buf, part(type, len), flags);
}

ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr,
               socklen_t addr_len)
{
    REAL(sendto);
    int type = type_of(fd);
    return fails(fd, type) ? -1 : real(fd, buf, part(type, len), flags, addr, addr_len);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    int type = type_of(fd);
    if (fails(fd, type))
        return -1;
    if (type != SOCK_STREAM || message->msg_iovlen == 0 || !hits(short_percent))
        return real(fd, message, flags);
    done.shortened++;
    struct iovec first = message->msg_iov[0];
    struct msghdr cut = *message;
    if (first.iov_len > 1)
        first.iov_len = 1 + below((unsigned)first.iov_len - 1);
    cut.msg_iov = &first;
    cut.msg_iovlen = 1;
    return real(fd, &cut, flags);
}

/* Returns the number of messages that the call may transfer, at most `count`. */
static unsigned fewer(int fd, unsigned count)
{
    if (count < 2 || !hits(short_percent))
        return count;
    done.shortened++;
    rearm(fd);
    return 1 + below(count - 1);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    REAL(sendmmsg);
    return fails(fd, type_of(fd)) ? -1 : real(fd, messages, fewer(fd, count), flags);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    REAL(recvmmsg);
    return fails(fd, type_of(fd)) ? -1 : real(fd, messages, fewer(fd, count), flags, timeout);
}

/* Vectored calls transfer only the first entry, which may also be shortened. */
ssize_t readv(int fd, const struct iovec *iov, int count)
{
    REAL(readv);
    return type_of(fd) && count > 0 ? read(fd, iov->iov_base, iov->iov_len) : real(fd, iov, count);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    REAL(writev);
    return type_of(fd) && count > 0 ? write(fd, iov->iov_base, iov->iov_len) : real(fd, iov, count);
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    REAL(epoll_wait);
    if (hits(eintr_percent)) {
        done.interrupted++;
        errno = EINTR;
        return -1;
    }
    return real(epoll, events, count, timeout);
}

int epoll_ctl_real(int epoll, int op, int fd, struct epoll_event *event)
{
    static __typeof__(epoll_ctl) *real;
    if (!real)
        real = (__typeof__(epoll_ctl) *)dlsym(RTLD_NEXT, "epoll_ctl");
    return real(epoll, op, fd, event);
}

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    static unsigned calls;
    int known = fd >= 0 && fd < FDS;
    if (known && fds[fd].accepted && op == EPOLL_CTL_ADD && epoll_every &&
        ++calls % epoll_every == 0) {
        done.epoll++;
        errno = ENOSPC;
        return -1;
    }
    int result = epoll_ctl_real(epoll, op, fd, event);
    if (known && result == 0) {
        fds[fd].watched = op != EPOLL_CTL_DEL;
        fds[fd].epoll = epoll;
        if (event)
            fds[fd].event = *event;
    }
    return result;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    REAL(setsockopt);
    static unsigned calls;
    if (fd >= 0 && fd < FDS && fds[fd].accepted && setsockopt_every &&
        ++calls % setsockopt_every == 0) {
        done.setsockopt++;
        errno = ENOBUFS;
        return -1;
    }
    return real(fd, level, name, value, len);
}

/* Returns the scheduled errno of an accept, or 0. */
static int accept_failure(void)
{
    static unsigned calls;
    if (hits(eintr_percent)) {
        done.interrupted++;
        return EINTR;
    }
    int failure = accepts_len ? accepts[calls++ % accepts_len] : 0;
    if (failure) {
        done.accept++;
    }
    return failure;
}

static int note_accepted(int accepted)
{
    if (accepted >= 0 && accepted < FDS) {
        fds[accepted].watched = 0;
        fds[accepted].accepted = 1;
    }
    return accepted;
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    REAL(accept4);
    int failure = accept_failure();
    if (failure) {
        errno = failure;
        return -1;
    }
    return note_accepted(real(fd, addr, len, flags));
}

int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
    REAL(accept);
    int failure = accept_failure();
    if (failure) {
        errno = failure;
        return -1;
    }
    return note_accepted(real(fd, addr, len));
}

int close(int fd)
{
    REAL(close);
    if (fd >= 0 && fd < FDS)
        fds[fd].watched = fds[fd].accepted = 0;
    return real(fd);
}
