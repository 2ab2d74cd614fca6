// An echo server with asio alone, without Boost, as its users write it. Each connection has its own
// buffer, which grows if a frame does not fit. One async_write sends the echoes of all frames of a
// read, and the next read begins when that write is done.
#define ASIO_STANDALONE
#include <asio.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using asio::ip::tcp;
using asio::ip::udp;

// User's code: returns the reply to a frame. The reply is as long as the frame.
using OnFrame = const char *(*)(const char *frame, std::size_t len);
// Prints the server's port for the parent process; returns zero on success.
using Announce = int (*)(std::uint16_t port);

constexpr std::size_t INPUT_LEN = 8 * 1024;
constexpr std::size_t PREFIX_LEN = 4;
constexpr std::size_t DATAGRAM_LEN = 64 * 1024;
constexpr int UDP_BUFFER_LEN = 1 << 22;

class Connection : public std::enable_shared_from_this<Connection> {
public:
    Connection(tcp::socket socket, OnFrame on_frame)
        : socket_(std::move(socket)), on_frame_(on_frame), input_(INPUT_LEN) {
        socket_.set_option(tcp::no_delay(true));
    }

    void read() {
        if (filled_ == input_.size()) input_.resize(2 * input_.size());
        auto spare = asio::buffer(input_.data() + filled_, input_.size() - filled_);
        socket_.async_read_some(
            spare, [self = shared_from_this()](const asio::error_code &error, std::size_t len) {
                // After an error, no handler keeps the connection alive, so its socket is closed.
                if (error) return;
                self->filled_ += len;
                self->echo();
            });
    }

private:
    void echo() {
        std::size_t consumed = 0;
        while (filled_ - consumed >= PREFIX_LEN) {
            const char *frame = input_.data() + consumed;
            std::size_t len = 0;
            for (std::size_t at = 0; at < PREFIX_LEN; ++at) {
                len = len << 8 | static_cast<unsigned char>(frame[at]);
            }
            if (filled_ - consumed - PREFIX_LEN < len) break;
            const char *answer = on_frame_(frame + PREFIX_LEN, len);
            output_.insert(output_.end(), frame, frame + PREFIX_LEN);
            output_.insert(output_.end(), answer, answer + len);
            consumed += PREFIX_LEN + len;
        }
        filled_ -= consumed;
        std::memmove(input_.data(), input_.data() + consumed, filled_);
        if (output_.empty()) {
            read();
            return;
        }
        asio::async_write(
            socket_, asio::buffer(output_),
            [self = shared_from_this()](const asio::error_code &error, std::size_t) {
                if (error) return;
                self->output_.clear();
                self->read();
            });
    }

    tcp::socket socket_;
    OnFrame on_frame_;
    std::vector<char> input_;
    // Number of received bytes in `input_`.
    std::size_t filled_ = 0;
    std::vector<char> output_;
};

void accept(tcp::acceptor &acceptor, OnFrame on_frame) {
    acceptor.async_accept([&acceptor, on_frame](const asio::error_code &error, tcp::socket socket) {
        if (!error) std::make_shared<Connection>(std::move(socket), on_frame)->read();
        accept(acceptor, on_frame);
    });
}

class Datagrams {
public:
    Datagrams(udp::socket &socket, OnFrame on_frame)
        : socket_(socket), on_frame_(on_frame), input_(DATAGRAM_LEN) {}

    void receive() {
        socket_.async_receive_from(
            asio::buffer(input_), from_, [this](const asio::error_code &error, std::size_t len) {
                if (error) {
                    receive();
                    return;
                }
                const char *answer = on_frame_(input_.data(), len);
                // Ignore an error: the load detects that the datagram is missing.
                socket_.async_send_to(asio::buffer(answer, len), from_,
                                      [this](const asio::error_code &, std::size_t) { receive(); });
            });
    }

private:
    udp::socket &socket_;
    OnFrame on_frame_;
    std::vector<char> input_;
    udp::endpoint from_;
};

// Runs a server. Returns the result of `serve`, or the negated system error that ended the server.
template <class Serve> int run(Serve serve) {
    try {
        // The hint 1 says that one thread runs the loop, so asio uses a queue of this thread. asio
        // still takes its locks, without contention.
        asio::io_context context(1);
        return serve(context);
    } catch (const asio::system_error &error) {
        return -error.code().value();
    }
}

} // namespace

extern "C" int peers_asio_tcp(OnFrame on_frame, Announce announce) {
    return run([=](asio::io_context &context) {
        tcp::acceptor acceptor(context, {asio::ip::address_v4::loopback(), 0});
        accept(acceptor, on_frame);
        const int error = announce(acceptor.local_endpoint().port());
        if (error == 0) context.run();
        return error;
    });
}

extern "C" int peers_asio_udp(OnFrame on_frame, Announce announce) {
    return run([=](asio::io_context &context) {
        udp::socket socket(context, {asio::ip::address_v4::loopback(), 0});
        socket.set_option(asio::socket_base::receive_buffer_size(UDP_BUFFER_LEN));
        Datagrams datagrams(socket, on_frame);
        datagrams.receive();
        const int error = announce(socket.local_endpoint().port());
        if (error == 0) context.run();
        return error;
    });
}
