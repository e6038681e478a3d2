const KEY_LETTERS = 32;
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const FAIR = 256 - 256 % LETTERS.length; // bytes from here on would prefer some letters

/** A key of a new guest: 32 letters and digits. Who has it is that guest, so keep it secret. */
export function newKey(crypto = globalThis.crypto) {
  if (!crypto?.getRandomValues) {
    throw new TypeError("there is no crypto here: pass { crypto }, the webcrypto of node:crypto");
  }
  let key = "";
  while (key.length < KEY_LETTERS) {
    for (const byte of crypto.getRandomValues(new Uint8Array(KEY_LETTERS))) {
      if (byte < FAIR && key.length < KEY_LETTERS) key += LETTERS[byte % LETTERS.length];
    }
  }
  return key;
}
