import { type AddressInfo, Server } from "node:net"

// oxlint-disable-next-line typescript/unbound-method -- called with `this` below
const listen = Server.prototype.listen

Server.prototype.listen = function (this: Server, ...args: Array<any>) {
  if (typeof args[0] === "number") args[0] = 0
  else if (args[0]?.port !== undefined) args[0] = { ...args[0], port: 0 }
  this.once("listening", () => process.stderr.write(`listening:${(this.address() as AddressInfo).port}\n`))
  return listen.apply(this, args as never)
}
