// What every driver for Node shares: each capability is told in one line of JSON (see reporting.py).
export const { BASE_URL, MODEL } = process.env;
export const KEY = "none";
export const QUESTION = "What is the weather in Oslo?";
export const WEATHER = "3 °C and rain";
export const CITIES = ["Oslo", "Rome"];
export const PLACE = { type: "object", properties: { city: { enum: CITIES } }, required: ["city"], additionalProperties: false };
export const UNKNOWN = "no-such-model";

export async function capability(name, attempt) {
  let ok, said;
  try {
    said = await attempt();
    ok = Boolean(said);
  } catch (error) {
    [ok, said] = [false, `${error.constructor.name}: ${error.message}`];
  }
  const text = typeof said === "string" ? said : JSON.stringify(said) ?? "";
  console.log(JSON.stringify({ capability: name, ok, said: text.slice(0, 300) }));
}

export function inCity(args) {
  const { city } = typeof args === "string" ? JSON.parse(args) : args;
  if (!CITIES.includes(city)) throw new Error(`no city of the schema: ${JSON.stringify(args)}`);
  return city;
}

export async function refused(call, named) {
  try {
    await call();
  } catch (error) {
    const text = `${error.constructor.name}: ${error.message}`;
    if (!text.includes(UNKNOWN) || (named && !named(error))) throw error;
    return text;
  }
  throw new Error("an unknown model was answered");
}
