#include "data/mysql_filter.h"

#include <mariadb/ma_pvio.h>

#include <cerrno>
#include <utility>

namespace perilune {

namespace {

// As in mysql/client_plugin.h, which can't be included as it is installed.
constexpr int kSocketPlugins = 101;
struct SocketPlugin : st_mysql_client_plugin {
    PVIO_METHODS* methods;
};

thread_local MysqlPackets* current_packets = nullptr;

PVIO_METHODS original_methods;
PVIO_METHODS filtered_methods;

ssize_t looked_at(const unsigned char* buffer, ssize_t size) {
    if (size <= 0 || current_packets == nullptr) return size;
    const std::string_view bytes(reinterpret_cast<const char*>(buffer),
                                 static_cast<std::size_t>(size));
    if (current_packets->accept(bytes)) return size;
    errno = EPROTO;
    return -1;
}

ssize_t read_filtered(MARIADB_PVIO* pvio, unsigned char* buffer, size_t size) {
    return looked_at(buffer, original_methods.read(pvio, buffer, size));
}

ssize_t async_read_filtered(MARIADB_PVIO* pvio, unsigned char* buffer, size_t size) {
    return looked_at(buffer, original_methods.async_read(pvio, buffer, size));
}

bool replace_methods(MYSQL* mysql) {
    auto* plugin = static_cast<SocketPlugin*>(
        ::mysql_client_find_plugin(mysql, "pvio_socket", kSocketPlugins));
    if (plugin == nullptr || plugin->methods == nullptr) return false;
    original_methods = *plugin->methods;
    if (original_methods.read == nullptr || original_methods.async_read == nullptr) return false;
    filtered_methods = original_methods;
    filtered_methods.read = read_filtered;
    filtered_methods.async_read = async_read_filtered;
    plugin->methods = &filtered_methods;
    return true;
}

}  // namespace

bool install_mysql_filter(MYSQL* mysql) {
    static const bool installed = replace_methods(mysql);
    return installed;
}

MysqlFilterScope::MysqlFilterScope(MysqlPackets& packets)
    : outer_(std::exchange(current_packets, &packets)) {}

MysqlFilterScope::~MysqlFilterScope() { current_packets = outer_; }

}  // namespace perilune
