// What the server's errors say, in Chinese: by their text, with `#` for each number in it and {0}, {1}, ... for those
// here, or else by their code, where need be with the status. What is not here is shown as the server says it.

export const zhErrors = {
  // 按原文
  "the prompt has # tokens and this model takes at most # tokens of prompt and answer together: shorten it by at least # tokens":
    "提示有 {0} 个 token，而此模型的提示和回答合计最多 {1} 个 token：请至少缩短 {2} 个 token。",
  "this key may have # requests at once, and they are running": "此密钥最多同时发出 {0} 个请求，现已全部在处理中。",
  "this key may use # requests a minute, and has used them": "此密钥每分钟最多 {0} 个请求，现已用完。",
  "this key may use # tokens a minute, and has used them": "此密钥每分钟最多 {0} 个 token，现已用完。",
  "the server is about to end and takes no new requests: try again": "服务器即将关闭，不再接收新请求，请稍后再试。",
  "# requests are running or waiting, and there may be no more: try again":
    "已有 {0} 个请求在处理或等待，暂时不能再加，请稍后再试。",
  "no API key: send Authorization: Bearer KEY, or x-api-key: KEY": "尚未填写 API 密钥。",
  "this API key is not valid: it may be mistyped or revoked": "此 API 密钥无效：可能输错，或已被撤销。",
  "this needs the API key of an admin": "需要管理员的 API 密钥。",
  "the PDF needs a password": "此 PDF 需要密码。",
  "this is not a PDF file": "这不是 PDF 文件。",
  "the PDF has # pages; at most # are read": "此 PDF 有 {0} 页，最多读取 {1} 页。",
  "the PDF has more than # characters": "此 PDF 超过 {0} 个字符。",
  "the PDF could not be read within # s": "未能在 {0} 秒内读完此 PDF。",
  "the PDF could not be read: its reader gave up on it": "无法读取此 PDF。",
  "this server reads no PDFs: pip install 'mohist[serve]'": "此服务器不能读取 PDF（需要 pip install 'mohist[serve]'）。",
  "the body has more than # bytes (limits.max_body_bytes)": "请求超过 {0} 字节（limits.max_body_bytes）。",
  "the body has more than # bytes (limits.max_pdf_bytes)": "文件超过 {0} 字节（limits.max_pdf_bytes）。",
  "the server failed on this request; it was logged": "服务器处理此请求时出错，已记入日志。",
  // 按代码
  context_length_exceeded: "对话超过了此模型的上下文长度，请缩短。",
  model_not_found: "服务器上没有所需的模型，请另选一个。",
  "model_not_loaded 503": "模型未能加载，原因见服务器日志。",
  rate_limit_exceeded: "此密钥的用量已达上限。",
  server_overloaded: "服务器暂时没有余力处理此请求，请稍后再试。",
  authentication_error: "API 密钥缺失或无效。",
  permission_error: "此密钥或此网页没有权限。",
  "upstream 429": "提供此模型的服务器请求过多，请稍后再试。",
  "upstream 502": "提供此模型的服务器无法连接，或其回答中断、有误。",
  "upstream 503": "提供此模型的服务器繁忙，请稍后再试。",
  "upstream 504": "提供此模型的服务器未及时回答。",
};
