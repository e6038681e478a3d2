// The reference of the network workloads: a server on plain asio, one thread, no engine. It echoes
// frames [u16 big-endian length][payload], or, with the argument "broadcast", sends each to all
// connections; with "packet" it echoes frames [u16 little-endian length of all][payload]. Prints
// READY and its port; ends at SIGTERM.
#include <asio.hpp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <string_view>

namespace {

using asio::ip::tcp;

constexpr std::size_t kReadBuffer = 16 * 1024;

class Session;
std::set<Session*> sessions;
bool broadcasts = false;
bool packets = false;

// Of the frame that begins with these two bytes.
std::size_t frame_size(std::string_view bytes) {
    const std::size_t first = static_cast<unsigned char>(bytes[0]);
    const std::size_t second = static_cast<unsigned char>(bytes[1]);
    return packets ? first | second << 8 : 2 + (first << 8 | second);
}

class Session : public std::enable_shared_from_this<Session> {
  public:
    explicit Session(tcp::socket socket) : socket_(std::move(socket)) {
        socket_.set_option(tcp::no_delay(true));
        sessions.insert(this);
    }
    ~Session() { sessions.erase(this); }

    void read() {
        if (in_.size() < used_ + kReadBuffer) in_.resize(used_ + kReadBuffer);
        socket_.async_read_some(asio::buffer(in_.data() + used_, kReadBuffer),
                                [self = shared_from_this()](std::error_code error, std::size_t n) {
                                    if (error) return;
                                    self->used_ += n;
                                    self->cut();
                                    self->read();
                                });
    }

    void send(std::string_view frame) { out_ += frame; }
    // One write for all that a batch of frames has put there.
    void flush() {
        if (writing_ || out_.empty()) return;
        writing_ = true;
        sending_.swap(out_);
        asio::async_write(socket_, asio::buffer(sending_),
                          [self = shared_from_this()](std::error_code error, std::size_t) {
                              self->writing_ = false;
                              self->sending_.clear();
                              if (!error) self->flush();
                          });
    }

  private:
    void cut() {
        std::string_view left(in_.data(), used_);
        while (left.size() >= 2) {
            const std::size_t size = frame_size(left);
            if (left.size() < size) break;
            if (broadcasts) {
                for (Session* session : sessions) session->send(left.substr(0, size));
            } else {
                send(left.substr(0, size));
            }
            left.remove_prefix(size);
        }
        if (broadcasts) {
            for (Session* session : sessions) session->flush();
        } else {
            flush();
        }
        std::memmove(in_.data(), left.data(), left.size());
        used_ = left.size();
    }

    tcp::socket socket_;
    std::string in_;
    std::size_t used_ = 0;
    std::string out_;
    std::string sending_;
    bool writing_ = false;
};

void accept(tcp::acceptor& acceptor) {
    acceptor.async_accept([&](std::error_code error, tcp::socket socket) {
        if (!error) std::make_shared<Session>(std::move(socket))->read();
        accept(acceptor);
    });
}

}  // namespace

int main(int count, char** arguments) {
    broadcasts = count > 1 && std::string_view(arguments[1]) == "broadcast";
    packets = count > 1 && std::string_view(arguments[1]) == "packet";
    asio::io_context context(1);
    tcp::acceptor acceptor(context, {asio::ip::make_address_v4("127.0.0.1"), 0});
    acceptor.listen(4096);
    std::printf("READY %d\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    accept(acceptor);
    context.run();
}
