// Says where a Chromium is that can be started; unpacks the package's where there is none.
import chromium from "@sparticuz/chromium";

console.log(JSON.stringify({ path: await chromium.executablePath(), args: chromium.args }));
