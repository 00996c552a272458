// The page: its views, each of which registers itself.

import "./account.js";
import "./admin.js";
import "./history.js";
import { startRemove } from "./remove.js";
import { startSession } from "./session.js";
import { startViews } from "./views.js";
import { startWords } from "./words.js";

startWords();
const signedIn = startSession();
startRemove();
const hasJustSignedIn = await signedIn;
startViews({ takesFocus: hasJustSignedIn });
