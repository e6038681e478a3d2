export { PeriluneError, connect } from "./client.js";
export { newKey } from "./key.js";
export { BUF_FORM, JSON_FORM, PacketError, Protocol, declare, status } from "./protocol.js";
export { services } from "./services.js";
