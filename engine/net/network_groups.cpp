// Network: groups of connections.

#include "net/network.h"

namespace perilune {

struct Network::Group {
    const Handle owner;
    std::mutex mutex;
    // Guarded by mutex: members, and where each stands among them.
    std::vector<ConnectionId> members;
    std::unordered_map<ConnectionId, std::size_t> places;

    explicit Group(Handle owner_) : owner(owner_) {}
    bool remove(ConnectionId member) {
        const auto found = places.find(member);
        if (found == places.end()) return false;
        const std::size_t place = found->second;
        places.erase(found);
        if (place + 1 != members.size()) {
            members[place] = members.back();
            places[members[place]] = place;
        }
        members.pop_back();
        return true;
    }
};

GroupId Network::group_create(Handle owner) {
    const std::unique_lock lock(groups_mutex_);
    const GroupId id{next_group_++};
    groups_.emplace(id.value, std::make_shared<Group>(owner));
    return id;
}

Status Network::no_group() { return Status::error(StatusCode::not_found, "no such group"); }

std::shared_ptr<Network::Group> Network::find_group(GroupId id) {
    const std::shared_lock lock(groups_mutex_);
    const auto found = groups_.find(id.value);
    return found == groups_.end() ? nullptr : found->second;
}

Status Network::group_close(GroupId id) {
    const std::unique_lock lock(groups_mutex_);
    return groups_.erase(id.value) != 0 ? Status() : no_group();
}

Status Network::group_add(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    if (!find_writable(member)) return dead_connection();
    if (group->places.try_emplace(member, group->members.size()).second) {
        group->members.push_back(member);
    }
    return {};
}

void Network::close_groups(Handle owner) {
    const std::unique_lock lock(groups_mutex_);
    std::erase_if(groups_, [&](const auto& entry) { return entry.second->owner == owner; });
}

Result<bool> Network::group_remove(GroupId id, ConnectionId member) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->remove(member);
}

Result<std::size_t> Network::group_size(GroupId id) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    const std::lock_guard lock(group->mutex);
    return group->members.size();
}

Result<std::size_t> Network::group_write(GroupId id, std::string_view body, ConnectionId except) {
    const std::shared_ptr<Group> group = find_group(id);
    if (group == nullptr) return no_group();
    SharedFrame frame{body, {}};
    std::size_t count = 0;
    // Under the lock, so that two writers reach all members in one order.
    const std::lock_guard lock(group->mutex);
    for (std::size_t i = 0; i < group->members.size();) {
        const ConnectionId member = group->members[i];
        if (member != except) {
            const Status written = write_shared(member, frame);
            if (written.code() == StatusCode::too_large) return written;
            if (!written.ok()) {  // the last one takes its place, and is looked at next
                group->remove(member);
                continue;
            }
            ++count;
        }
        ++i;
    }
    return count;
}

}  // namespace perilune
