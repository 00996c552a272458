// Indonesian, by views.

import account from "./id/account.js";
import admin from "./id/admin.js";
import batch from "./id/batch.js";
import common from "./id/common.js";
import history from "./id/history.js";
import remove from "./id/remove.js";
import session from "./id/session.js";

export default { ...common, ...session, ...remove, ...batch, ...history, ...account, ...admin };
